package configs_test

import (
	"bufio"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"

	"github.com/lbproxy/lbproxy/configs"
)

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestSampleIsTheDefault(t *testing.T) {
	got, err := configs.Load("lbproxy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(configs.Default(), got); diff != "" {
		t.Errorf("-default +sample:\n%s", diff)
	}
}

func TestSampleExplainsEveryKey(t *testing.T) {
	sample := read(t, "lbproxy.yaml")
	for _, key := range keysOf(reflect.TypeFor[configs.Config]()) {
		if !regexp.MustCompile(`\b` + key + `:|(?m)^#   ` + key + ` `).MatchString(sample) {
			t.Errorf("key %s is not in the sample", key)
		}
	}
}

// keysOf returns the keys of a struct and of those within it.
func keysOf(t reflect.Type) []string {
	switch {
	case t.Kind() == reflect.Pointer, t.Kind() == reflect.Slice, t.Kind() == reflect.Map:
		return keysOf(t.Elem())
	case t.Kind() != reflect.Struct:
		return nil
	}
	var keys []string
	for field := range t.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		keys = append(append(keys, name), keysOf(field.Type)...)
	}
	return keys
}

// Examples are comments without a space after the "#"; each must be valid when it is uncommented.
func TestSampleExamples(t *testing.T) {
	lines := strings.Split(read(t, "lbproxy.yaml"), "\n")
	example := regexp.MustCompile(`^( *)#([^ ].*)$`)
	found := 0
	for i, line := range lines {
		if !example.MatchString(line) {
			continue
		}
		found++
		edited := append([]string{}, lines...)
		edited[i] = example.ReplaceAllString(line, "$1$2")
		got, err := configs.Parse("lbproxy.yaml", []byte(strings.Join(edited, "\n")))
		if err != nil {
			t.Errorf("line %d: %v", i+1, err)
			continue
		}
		// An example at its default still changes what is listed.
		if cmp.Equal(configs.Default(), got) {
			t.Errorf("line %d: %s\nhas no effect", i+1, line)
		}
	}
	if found < 6 {
		t.Errorf("%d examples found, want 6 at least", found)
	}
}

// object is the part of a Kubernetes object that the tests look at.
type object struct {
	Kind string            `yaml:"kind"`
	Data map[string]string `yaml:"data"`
	Spec struct {
		Template struct {
			Metadata struct {
				Annotations map[string]string `yaml:"annotations"`
			} `yaml:"metadata"`
			Spec pod `yaml:"spec"`
		} `yaml:"template"`
	} `yaml:"spec"`
}

type pod struct {
	TerminationGracePeriodSeconds int `yaml:"terminationGracePeriodSeconds"`
	SecurityContext               struct {
		RunAsNonRoot bool `yaml:"runAsNonRoot"`
	} `yaml:"securityContext"`
	Containers []struct {
		Args            []string `yaml:"args"`
		Ports           []port   `yaml:"ports"`
		LivenessProbe   probe    `yaml:"livenessProbe"`
		ReadinessProbe  probe    `yaml:"readinessProbe"`
		SecurityContext struct {
			ReadOnlyRootFilesystem bool `yaml:"readOnlyRootFilesystem"`
		} `yaml:"securityContext"`
		VolumeMounts []struct {
			MountPath string `yaml:"mountPath"`
		} `yaml:"volumeMounts"`
	} `yaml:"containers"`
}

type port struct {
	Name          string `yaml:"name"`
	ContainerPort int    `yaml:"containerPort"`
	HostPort      int    `yaml:"hostPort"`
}

type probe struct {
	HTTPGet struct {
		Path string `yaml:"path"`
		Port string `yaml:"port"`
	} `yaml:"httpGet"`
}

func readDaemonset(t *testing.T) (objects map[string]object, c *configs.Config) {
	t.Helper()
	objects = map[string]object{}
	for d := yaml.NewDecoder(strings.NewReader(read(t, "kubernetes/daemonset.yaml"))); ; {
		var o object
		err := d.Decode(&o)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		objects[o.Kind] = o
	}
	for _, kind := range []string{"Namespace", "ServiceAccount", "ConfigMap", "DaemonSet"} {
		if _, ok := objects[kind]; !ok {
			t.Fatalf("there is no %s", kind)
		}
	}
	c, err := configs.Parse("lbproxy.yaml in the ConfigMap", []byte(objects["ConfigMap"].Data["lbproxy.yaml"]))
	if err != nil {
		t.Fatal(err)
	}
	return objects, c
}

func portOf(t *testing.T, address string) int {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestDaemonset(t *testing.T) {
	objects, c := readDaemonset(t)
	template := objects["DaemonSet"].Spec.Template
	container := template.Spec.Containers[0]

	calls, probes := portOf(t, c.Listeners[0].Address), portOf(t, c.Metrics.Address)
	want := []port{{"grpc", calls, calls}, {"metrics", probes, 0}}
	if diff := cmp.Diff(want, container.Ports); diff != "" {
		t.Errorf("ports, -configured +declared:\n%s", diff)
	}
	if got := template.Metadata.Annotations["prometheus.io/port"]; got != strconv.Itoa(probes) {
		t.Errorf("port to scrape = %s, want %d", got, probes)
	}
	for path, got := range map[string]probe{"/healthz": container.LivenessProbe, "/readyz": container.ReadinessProbe} {
		if got.HTTPGet.Path != path || got.HTTPGet.Port != "metrics" {
			t.Errorf("probe = %+v, want %s on port metrics", got.HTTPGet, path)
		}
	}
	if host, _, _ := net.SplitHostPort(c.Admin.Address); !net.ParseIP(host).IsLoopback() {
		t.Errorf("admin address %s is not loopback", c.Admin.Address)
	}
	if grace := time.Duration(template.Spec.TerminationGracePeriodSeconds) * time.Second; grace <= c.DrainTimeout {
		t.Errorf("grace period %s is no longer than drain_timeout %s", grace, c.DrainTimeout)
	}
	if !template.Spec.SecurityContext.RunAsNonRoot || !container.SecurityContext.ReadOnlyRootFilesystem {
		t.Error("the container may run as root or write to its root file system")
	}
	configDir := container.VolumeMounts[0].MountPath
	if diff := cmp.Diff([]string{"serve", "--config", configDir + "/lbproxy.yaml"}, container.Args); diff != "" {
		t.Errorf("args: -want +got:\n%s", diff)
	}
	checkArgs(t, container.Args)
}

func TestSystemdUnit(t *testing.T) {
	unit := map[string][]string{}
	for lines := bufio.NewScanner(strings.NewReader(read(t, "lbproxy.service"))); lines.Scan(); {
		line := lines.Text()
		if line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "[") {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			t.Fatalf("%q is no setting", line)
		}
		unit[key] = append(unit[key], value)
	}
	stop, err := time.ParseDuration(unit["TimeoutStopSec"][0])
	if err != nil || stop <= configs.Default().DrainTimeout {
		t.Errorf("TimeoutStopSec = %s (%v), want more than drain_timeout, %s", stop, err, configs.Default().DrainTimeout)
	}
	for _, command := range append(unit["ExecStart"], unit["ExecReload"]...) {
		if args := strings.Fields(command); filepath.Base(args[0]) == "lbproxy" {
			checkArgs(t, args[1:])
		}
	}
}

// checkArgs checks that the binary knows the commands and flags among args.
func checkArgs(t *testing.T, args []string) {
	t.Helper()
	known := wordsOf(t, "../cmd/lbproxy")
	for _, arg := range args {
		if word := strings.TrimPrefix(arg, "--"); !strings.HasPrefix(arg, "/") && !known[word] {
			t.Errorf("%s: the binary knows no %s", strings.Join(args, " "), arg)
		}
	}
}

// wordsOf returns the first words of all strings in the Go files of dir, the names of commands and flags among them.
func wordsOf(t *testing.T, dir string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no Go files in %s: %v", dir, err)
	}
	words := map[string]bool{}
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				text, _ := strconv.Unquote(lit.Value)
				word, _, _ := strings.Cut(text, " ")
				words[word] = true
			}
			return true
		})
	}
	return words
}

func TestPrometheusScrapesWhatTheSamplesServe(t *testing.T) {
	var sample struct {
		RuleFiles     []string `yaml:"rule_files"`
		ScrapeConfigs []struct {
			JobName       string `yaml:"job_name"`
			StaticConfigs []struct {
				Targets []string `yaml:"targets"`
			} `yaml:"static_configs"`
		} `yaml:"scrape_configs"`
	}
	if err := yaml.Unmarshal([]byte(read(t, "prometheus.yaml")), &sample); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"alerts.yaml"}, sample.RuleFiles); diff != "" {
		t.Errorf("rule files: -want +got:\n%s", diff)
	}
	_, c := readDaemonset(t)
	for _, target := range sample.ScrapeConfigs[0].StaticConfigs[0].Targets {
		if got, want := portOf(t, target), portOf(t, c.Metrics.Address); got != want {
			t.Errorf("%s is scraped at port %d, other samples serve metrics at %d", target, got, want)
		}
	}
}
