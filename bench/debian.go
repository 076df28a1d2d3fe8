//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
)

// debianPackages are the peers' packages.
var debianPackages = []string{"nginx", "haproxy", "nghttp2-proxy"}

// debianRoot returns a directory with the Debian packages of the peers unpacked in it. It is made once, in the
// user's cache; nothing is installed, and no privileges are needed.
func debianRoot(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	root := filepath.Join(cache, "lbproxy-bench", "debian")
	if _, err := os.Stat(root); err == nil {
		return root, nil
	}
	if err := os.MkdirAll(filepath.Dir(root), 0o755); err != nil {
		return "", err
	}
	scratch, err := os.MkdirTemp(filepath.Dir(root), "fetch-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(scratch)
	fmt.Fprintln(os.Stderr, "fetching Debian packages of the peers into", root)
	unpacked, err := unpackDebian(ctx, scratch)
	if err != nil {
		return "", err
	}
	return root, os.Rename(unpacked, root) // so that there is all of it, or nothing
}

// unpackDebian fetches debianPackages and what they depend on and this system lacks, and unpacks all of it into a
// directory within dir. Lists of packages are fetched for it alone: the system's may be missing or old, and only
// root may renew them.
func unpackDebian(ctx context.Context, dir string) (string, error) {
	lists, archives, unpacked := filepath.Join(dir, "lists"), filepath.Join(dir, "archives"), filepath.Join(dir, "root")
	for _, each := range []string{filepath.Join(lists, "partial"), filepath.Join(archives, "partial"), unpacked} {
		if err := os.MkdirAll(each, 0o755); err != nil {
			return "", err
		}
	}
	apt := func(args ...string) ([]byte, error) {
		return output(ctx, archives, "apt-get", append([]string{
			"-q", "-o", "Dir::State::Lists=" + lists, "-o", "Dir::Cache=" + dir, "-o", "APT::Update::Error-Mode=any",
		}, args...)...)
	}
	if _, err := apt("update"); err != nil {
		return "", err
	}
	plan, err := apt(append([]string{"install", "--simulate", "--reinstall", "--no-install-recommends"}, debianPackages...)...)
	if err != nil {
		return "", err
	}
	if _, err := apt(append([]string{"download"}, plannedPackages(plan)...)...); err != nil {
		return "", err
	}
	packages, err := filepath.Glob(filepath.Join(archives, "*.deb"))
	for _, each := range packages {
		if _, err := output(ctx, dir, "dpkg", "-x", each, unpacked); err != nil {
			return "", err
		}
	}
	return unpacked, err
}

// plannedPackages are those that "apt-get install --simulate" would install, in lines such as
// "Inst nginx (1.22.1-9 Debian:12 [amd64])".
func plannedPackages(plan []byte) []string {
	var names []string
	for _, match := range regexp.MustCompile(`(?m)^Inst (\S+) `).FindAllSubmatch(plan, -1) {
		names = append(names, string(match[1]))
	}
	return names
}

// output runs a program in dir and returns what it has written.
func output(ctx context.Context, dir, program string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "LC_ALL=C")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", program, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.Bytes(), nil
}
