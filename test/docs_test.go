package test

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lbproxy/lbproxy/configs"
)

// Each page of the reference names everything that the code has of its subject. The code is read as text, wherever in
// the module it is: what counts is the names.
func TestReferenceNamesEverything(t *testing.T) {
	const row, anywhere = "(?m)^\\| `%s`", `\b%s\b`
	for _, named := range []struct {
		what  string
		under string
		name  string // a regular expression
		least int
		page  string
		as    string // a regular expression around the name
	}{
		{"series", "..", seriesName, 35, "metrics.md", row},
		{"cause", "..", `(?:[Cc]ause|Rejection|Shortage) += "(\w+)"`, 28, "metrics.md", "`%s`"},
		{"result of a reload", "..", `reload[A-Z]\w+ += "(\w+)"`, 2, "metrics.md", "`%s`"},
		{"reason", "../proxy", `Reason = "(\w+)"`, 10, "statuses.md", row},
		{"policy", "../picker", `(?:RoundRobin|Random|LeastRequest) += "(\w+)"`, 4, "configuration.md", row},
		{"field", "../discovery", "(?:json|yaml):\"(\\w+)", 12, "registry.md", anywhere},
		{"field", "../picker", "json:\"(\\w+)", 15, "commands.md", "`%s`"},
		{"field", "../proxy", "json:\"(\\w+)", 10, "commands.md", "`%s`"},
		{"field", "../metrics", "json:\"(\\w+)", 3, "commands.md", "`%s`"},
		{"field", "../cmd", "json:\"(\\w+)", 15, "commands.md", anywhere},
		{"state of the registry", "../proxy", `RegistryState = "(\w+)"`, 4, "commands.md", "`%s`"},
		{"path", "../admin", `"GET (/(?:debug/)?\w+)`, 6, "commands.md", row[:len(row)-1]},
		{"command", "../cmd/lbproxy", `Use: +"(\w+)`, 6, "commands.md", `(?m)^## (?:lbproxy )?%s\b`},
		{"exit code", "../cmd", `exit[A-Z]\w+ += (\d+)\n`, 7, "commands.md", `(?m)^\| %s \|`},
	} {
		page := read(t, "../docs/"+named.page)
		found := namesIn(t, named.under, named.name)
		if len(found) < named.least {
			t.Errorf("%s in %s: found only %v", named.what, named.under, found)
		}
		for _, name := range found {
			if !regexp.MustCompile(fmt.Sprintf(named.as, regexp.QuoteMeta(name))).MatchString(page) {
				t.Errorf("docs/%s does not have the %s %s", named.page, named.what, name)
			}
		}
	}
}

const seriesName = `(?:Name: +|NewDesc\()"(lbproxy_\w+)"`

// namesIn is what a regular expression finds in the Go files below a directory, without tests and benchmarks.
func namesIn(t *testing.T, root, pattern string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir():
			if name := entry.Name(); name == "test" || name == "bench" || name == ".git" {
				return fs.SkipDir
			}
		case strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go"):
			for _, match := range regexp.MustCompile(pattern).FindAllStringSubmatch(read(t, path), -1) {
				found = append(found, match[1])
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// Every series that a page names exists.
func TestPagesNameNoSeriesThatIsNotThere(t *testing.T) {
	series := namesIn(t, "..", seriesName)
	for _, page := range pages(t) {
		if filepath.Base(page) == "CHANGELOG.md" {
			continue
		}
		for _, named := range regexp.MustCompile(`\blbproxy_[a-z_]+`).FindAllString(read(t, page), -1) {
			if !slices.Contains(series, named) {
				t.Errorf("%s names %s, and there is no such series", page, named)
			}
		}
	}
}

// docs/configuration.md has a row for every key, with its default and whether it is live.
func TestConfigurationHasEveryKey(t *testing.T) {
	page := read(t, "../docs/configuration.md")
	keys := 0
	var walk func(path string, typ reflect.Type, defaults reflect.Value)
	walk = func(path string, typ reflect.Type, defaults reflect.Value) {
		switch typ.Kind() {
		case reflect.Pointer:
			if defaults.IsValid() {
				defaults = defaults.Elem()
			}
			walk(path, typ.Elem(), defaults)
			return
		case reflect.Struct:
			for field := range typ.Fields() {
				name, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
				if !field.IsExported() || name == "" {
					continue
				}
				var value reflect.Value
				if defaults.IsValid() {
					value = defaults.FieldByIndex(field.Index)
				}
				walk(strings.TrimPrefix(path+"."+name, "."), field.Type, value)
			}
			return
		case reflect.Map:
			if typ.Elem().Kind() == reflect.Struct {
				element := reflect.New(typ.Elem())
				if e, ok := element.Interface().(interface{ SetDefaults() }); ok {
					e.SetDefaults()
				}
				walk(path+".<name>", typ.Elem(), element.Elem())
				return
			}
		case reflect.Slice:
			if typ.Elem().Kind() == reflect.Struct {
				var first reflect.Value
				if defaults.IsValid() && defaults.Len() > 0 {
					first = defaults.Index(0)
				}
				walk(path+"[]", typ.Elem(), first)
				return
			}
		}
		keys++
		row := regexp.MustCompile("(?m)^\\| `" + regexp.QuoteMeta(path) + "` \\| (.*?)\\|.*$").FindStringSubmatch(page)
		if row == nil {
			t.Errorf("docs/configuration.md has no row for %s", path)
			return
		}
		if want := shown(defaults); !strings.Contains(row[1], want) {
			t.Errorf("docs/configuration.md: the default of %s is %q, want %q", path, row[1], want)
		}
		top, _, _ := strings.Cut(path, ".")
		live := path == "log.level" || strings.HasPrefix(top, "services") || strings.HasPrefix(top, "routes")
		if live != strings.Contains(row[0], "| yes |") {
			t.Errorf("docs/configuration.md: %s is live: %v; its row says otherwise", path, live)
		}
	}
	walk("", reflect.TypeFor[configs.Config](), reflect.ValueOf(configs.Default()).Elem())
	if keys < 35 {
		t.Errorf("found only %d keys", keys)
	}
}

// shown is how a page writes a default; empty for none.
func shown(value reflect.Value) string {
	if !value.IsValid() || value.IsZero() && value.Kind() != reflect.Int && value.Kind() != reflect.Int64 {
		return ""
	}
	switch v := value.Interface().(type) {
	case time.Duration:
		text := v.String() // such as 10m0s
		if v > 0 && strings.HasSuffix(text, "m0s") {
			text = strings.TrimSuffix(text, "0s")
		}
		return "`" + text + "`"
	case []string:
		return fmt.Sprintf("`[%q]`", v[0])
	default:
		return fmt.Sprintf("`%v`", v)
	}
}

// docs/commands.md has every flag, in the section of its command.
func TestCommandsHaveEveryFlag(t *testing.T) {
	page := read(t, "../docs/commands.md")
	for _, command := range []struct {
		heading string
		files   []string
		least   int
	}{
		{"lbproxy serve", []string{"lbproxy/serve.go"}, 11},
		{"lbproxy check", []string{"lbproxy/check.go"}, 2},
		{"lbproxy register", []string{"lbproxy/register.go", "lbproxy/etcdflags.go"}, 16},
		{"lbproxy services", []string{"lbproxy/services.go"}, 3},
		{"lbproxy version", []string{"lbproxy/version.go"}, 1},
		{"lbproxy-dev", []string{"lbproxy-dev/main.go"}, 12},
	} {
		_, section, _ := strings.Cut(page, "\n## "+command.heading+"\n")
		section, _, _ = strings.Cut(section, "\n## ")
		flags := 0
		for _, file := range command.files {
			declared := regexp.MustCompile(`(?:Var|VarP|add)\((?:&[\w.]+|cmd|\(\*weight\)\([^)]*\)), "([\w-]+)"(?:, "(\w)")?,`)
			for _, flag := range declared.FindAllStringSubmatch(read(t, "../cmd/"+file), -1) {
				flags++
				name, short := flag[1], flag[2]
				row := regexp.MustCompile("(?m)^\\| `--" + name + "[` ].*$").FindString(section)
				if row == "" || short != "" && !strings.Contains(row, "`-"+short+"`") {
					t.Errorf("docs/commands.md: %s has no row for --%s %s", command.heading, name, short)
				}
			}
		}
		if flags < command.least {
			t.Errorf("%s: found only %d flags", command.heading, flags)
		}
	}
}

// docs/architecture.md has every package that is shipped, but for the tools under internal.
func TestArchitectureHasEveryPackage(t *testing.T) {
	page := read(t, "../docs/architecture.md")
	for name := range arrows {
		if strings.HasPrefix(name, "internal/") && name != "internal/app" || name == "bench" || strings.HasPrefix(name, "test") {
			continue
		}
		if !strings.Contains(page, "["+name+"](../"+name+")") {
			t.Errorf("docs/architecture.md does not have the package %s", name)
		}
	}
}

// The README is for the first hour; what is looked up is in docs.
func TestReadmeIsShort(t *testing.T) {
	const most = 200
	if lines := strings.Count(read(t, "../README.md"), "\n"); lines > most {
		t.Errorf("README.md has %d lines, want at most %d; move what is looked up to docs", lines, most)
	}
}

// What the README tells people to build or run does not show in git status.
func TestGitIgnoresWhatTheReadmeBuilds(t *testing.T) {
	ignored := strings.Fields(read(t, "../.gitignore"))
	made := []string{"default.etcd/"} // what etcd writes into
	for _, m := range regexp.MustCompile(`go build .*?(?:-o (\w+) |\./cmd/(\w+))`).FindAllStringSubmatch(read(t, "../README.md"), -1) {
		made = append(made, m[1]+m[2])
	}
	if len(made) < 4 {
		t.Errorf("found only %v", made)
	}
	for _, name := range made {
		if !slices.Contains(ignored, "/"+name) {
			t.Errorf(".gitignore does not name /%s", name)
		}
	}
}

func TestReadmeProgramsBuild(t *testing.T) {
	programs := regexp.MustCompile("(?s)```go\n(package main\n.*?)```").FindAllStringSubmatch(read(t, "../README.md"), -1)
	if len(programs) == 0 {
		t.Fatal("found none")
	}
	for _, program := range programs {
		file := filepath.Join(t.TempDir(), "main.go")
		if err := os.WriteFile(file, []byte(program[1]), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("go", "vet", file).CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
}

// What the README tells people to build comes with this module and what it depends on.
func TestReadmePackagesAreThere(t *testing.T) {
	packages := regexp.MustCompile(`(?m)^go (?:build|run) (?:-o \w+ )?([\w./-]+)`).FindAllStringSubmatch(read(t, "../README.md"), -1)
	if len(packages) < 4 {
		t.Errorf("found only %v", packages)
	}
	for _, p := range packages {
		cmd := exec.Command("go", "list", "-deps", p[1])
		cmd.Dir = ".."
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", p[0], err, out)
		}
	}
}

func TestLinksLeadSomewhere(t *testing.T) {
	for _, page := range pages(t) {
		for _, link := range regexp.MustCompile(`\]\(([^)]+)\)`).FindAllStringSubmatch(read(t, page), -1) {
			if strings.HasPrefix(link[1], "https://") {
				continue
			}
			file, anchor, _ := strings.Cut(link[1], "#")
			target := page
			if file != "" {
				target = filepath.Join(filepath.Dir(page), file)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s: %v", page, link[1], err)
			} else if anchor != "" && !anchors(read(t, target))[anchor] {
				t.Errorf("%s links to %s, and there is no such heading", page, link[1])
			}
		}
	}
}

// pages are what people read.
func pages(t *testing.T) []string {
	t.Helper()
	all := []string{"../README.md", "../CHANGELOG.md", "../bench/README.md"}
	for _, dir := range []string{"../docs/*.md", "../docs/adr/*.md"} {
		found, err := filepath.Glob(dir)
		if err != nil || len(found) == 0 {
			t.Fatalf("no pages at %s: %v", dir, err)
		}
		all = append(all, found...)
	}
	return all
}

// anchors are what a page's headings can be linked by.
func anchors(page string) map[string]bool {
	all := map[string]bool{}
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(page, -1) {
		name := regexp.MustCompile(`[^\w -]`).ReplaceAllString(strings.ToLower(heading[1]), "")
		all[strings.ReplaceAll(name, " ", "-")] = true
	}
	return all
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
