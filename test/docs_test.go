package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What people read is kept to what the code has. The code is read as text: what counts is the names.
func TestReadmeNamesEverything(t *testing.T) {
	readme := read(t, "../README.md")
	for _, named := range []struct {
		what  string
		files string
		name  *regexp.Regexp
		least int
	}{
		{"series", "../metrics/*.go", regexp.MustCompile(`Name: +"(lbproxy_\w+)"`), 15},
		{"reason", "../proxy/status.go", regexp.MustCompile(`Reason = "(\w+)"`), 9},
		{"policy", "../picker/picker.go", regexp.MustCompile(`= "(\w+)"\n`), 4},
		{"key", "../configs/config.go", regexp.MustCompile("`yaml:\"(\\w+)"), 25},
		{"cause of relists", "../metrics/discovery.go", regexp.MustCompile(`DiscoveryCause = "(\w+)"`), 7},
		{"cause of ended connections", "../metrics/relay.go", regexp.MustCompile(`Cause = "(\w+)"`), 14},
		{"rejection", "../metrics/relay.go", regexp.MustCompile(`Rejection = "(\w+)"`), 4},
		{"command", "../cmd/lbproxy/*.go", regexp.MustCompile(`Use: +"(\w+)`), 6},
	} {
		found := map[string]bool{}
		files, err := filepath.Glob(named.files)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			for _, match := range named.name.FindAllStringSubmatch(read(t, file), -1) {
				found[match[1]] = true
			}
		}
		if len(found) < named.least {
			t.Errorf("%s: found only %v", named.what, found)
		}
		for name := range found {
			if !regexp.MustCompile(`\b` + name + `\b`).MatchString(readme) {
				t.Errorf("README.md does not name the %s %s", named.what, name)
			}
		}
	}
}

// Nothing that the README has people build, or run, shows in git status.
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

// What the README has people build comes with this module and what it depends on.
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
	pages := []string{"../README.md", "../CHANGELOG.md"}
	for _, dir := range []string{"../docs/*.md", "../docs/adr/*.md"} {
		found, err := filepath.Glob(dir)
		if err != nil || len(found) == 0 {
			t.Fatalf("no pages at %s: %v", dir, err)
		}
		pages = append(pages, found...)
	}
	for _, page := range pages {
		for _, link := range regexp.MustCompile(`\]\(([^)]+)\)`).FindAllStringSubmatch(read(t, page), -1) {
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
