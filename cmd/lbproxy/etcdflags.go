package main

import (
	"github.com/spf13/cobra"

	"github.com/lbproxy/lbproxy/discovery/etcd"
)

// etcdFlags are the flags that say how to reach etcd.
type etcdFlags struct {
	etcd etcd.Config
	tls  etcd.TLSConfig
}

func (f *etcdFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringSliceVar(&f.etcd.Endpoints, "etcd", []string{"127.0.0.1:2379"}, "etcd's members, as host:port or URLs")
	flags.StringVar(&f.etcd.Root, "root", "", "what stands before /SERVICE/ in the keys, such as /lbproxy")
	flags.StringVar(&f.etcd.Username, "username", "", "user to log in to etcd as")
	flags.StringVar(&f.etcd.PasswordFile, "password-file", "", "file that holds the user's password")
	flags.StringVar(&f.tls.CA, "ca", "", "file with the authorities to trust etcd's certificate by")
	flags.StringVar(&f.tls.Cert, "cert", "", "file with the certificate to show etcd")
	flags.StringVar(&f.tls.Key, "key", "", "file with the key of that certificate")
	flags.StringVar(&f.tls.ServerName, "server-name", "", "name in etcd's certificate, if it is not the endpoint's host")
	cmd.MarkFlagsRequiredTogether("username", "password-file")
	cmd.MarkFlagsRequiredTogether("cert", "key")
}

func (f *etcdFlags) config() etcd.Config {
	cfg := f.etcd
	if f.tls != (etcd.TLSConfig{}) {
		cfg.TLS = &f.tls
	}
	return cfg
}
