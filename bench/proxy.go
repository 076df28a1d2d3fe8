//go:build linux

package main

import (
	"embed"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"text/template"
)

// proxy is what stands between callers and backends.
type proxy struct {
	Name    string
	program string   // empty for none: callers reach one backend directly
	version string   // the argument that has it say its version
	args    []string // it runs in the directory of its files
	configs []string // templates below proxies/, made into files of the same name
	engine  string   // of lbproxy
}

var proxies = []proxy{
	{Name: "direct"},
	{Name: "nginx", program: "nginx", version: "-v", args: []string{"-p", ".", "-e", "error.log", "-c", "nginx.conf"}, configs: []string{"nginx.conf"}},
	{Name: "haproxy", program: "haproxy", version: "-v", args: []string{"-db", "-f", "haproxy.cfg"}, configs: []string{"haproxy.cfg"}},
	{Name: "nghttpx", program: "nghttpx", version: "--version", args: []string{"--conf=nghttpx.conf"}, configs: []string{"nghttpx.conf"}},
	lbproxy("grpc-proxy"),
	lbproxy("relay"),
}

func lbproxy(engine string) proxy {
	return proxy{
		Name: engine, program: "lbproxy", version: "version", engine: engine,
		args:    []string{"serve", "--config", "lbproxy.yaml"},
		configs: []string{"lbproxy.yaml", "instances.yaml"},
	}
}

func (p proxy) String() string { return p.Name }

// isPeer reports whether p is not lbproxy.
func (p proxy) isPeer() bool { return p.program != "" && p.engine == "" }

// site is the data of a configuration.
type site struct {
	Address  netip.AddrPort // where to listen
	Backends []netip.AddrPort
	Cores    int
	Root     bool // whether to keep the rights of root, for programs that give them away
	Engine   string
}

//go:embed proxies
var templates embed.FS

// configure writes p's configuration into dir.
func (p proxy) configure(address netip.AddrPort, backends []netip.AddrPort, dir string) error {
	s := site{Address: address, Backends: backends, Cores: runtime.NumCPU(), Root: os.Geteuid() == 0, Engine: p.engine}
	all, err := template.ParseFS(templates, "proxies/*")
	if err != nil {
		return err
	}
	for _, name := range p.configs {
		file, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		defer file.Close()
		if err := all.ExecuteTemplate(file, name, s); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
