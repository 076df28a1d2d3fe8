//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// binaries are the programs under measurement.
type binaries struct {
	scratch   string            // removed by close
	paths     map[string]string // by program
	libraries string            // where peers find their libraries before the system's; may be empty
	versions  []string          // a line for each
}

// findBinaries builds or finds the programs of o.proxies.
func (o *options) findBinaries(ctx context.Context) (*binaries, error) {
	scratch, err := os.MkdirTemp("", "lbproxy-bench-")
	if err != nil {
		return nil, err
	}
	b := &binaries{scratch: scratch, paths: map[string]string{}}
	if err := b.find(ctx, o); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *binaries) close() { os.RemoveAll(b.scratch) }

func (b *binaries) find(ctx context.Context, o *options) error {
	find, err := b.finder(ctx, o)
	if err != nil {
		return fmt.Errorf("peers: %w; -peers path takes them from PATH, -peers none leaves them out", err)
	}
	for _, p := range o.proxies {
		if p.program == "" || b.paths[p.program] != "" {
			continue
		}
		if p.isPeer() {
			b.paths[p.program], err = find(p.program)
		} else {
			b.paths[p.program], err = b.lbproxy(ctx, o.lbproxy)
		}
		if err != nil {
			return err
		}
		version, err := b.version(ctx, p)
		if err != nil {
			return err
		}
		b.versions = append(b.versions, version)
	}
	return nil
}

// finder returns the function that finds a peer's program.
func (b *binaries) finder(ctx context.Context, o *options) (func(program string) (string, error), error) {
	root := o.peers
	switch o.peers {
	case "path", "none":
		return findInPath, nil
	case "debian":
		needed := false
		for _, p := range o.proxies {
			needed = needed || p.isPeer()
		}
		if !needed {
			return nil, nil
		}
		var err error
		if root, err = debianRoot(ctx); err != nil {
			return nil, err
		}
	}
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(root, "usr")); err != nil {
		return nil, fmt.Errorf("%s is not the root of unpacked packages: %w", root, err)
	}
	libraries, err := filepath.Glob(filepath.Join(root, "usr/lib/*-linux-*"))
	b.libraries = strings.Join(libraries, ":")
	return func(program string) (string, error) { return filepath.Join(root, "usr/sbin", program), nil }, err
}

// findInPath looks for program in PATH, and where Debian puts it, which is not in every user's PATH.
func findInPath(program string) (string, error) {
	path, err := exec.LookPath(program)
	if errors.Is(err, exec.ErrNotFound) {
		if path, sbinErr := exec.LookPath(filepath.Join("/usr/sbin", program)); sbinErr == nil {
			return path, nil
		}
	}
	if err != nil {
		return "", fmt.Errorf("%w; install it, or leave it out of -proxies", err)
	}
	return path, nil
}

// lbproxy returns the lbproxy at path or, if that is empty, one built from this tree.
func (b *binaries) lbproxy(ctx context.Context, path string) (string, error) {
	if path != "" {
		return filepath.Abs(path)
	}
	path = filepath.Join(b.scratch, "lbproxy")
	version, err := exec.CommandContext(ctx, "git", "describe", "--tags", "--always", "--dirty").Output()
	if err != nil {
		version = nil // it has none outside a clone
	}
	// Built as it is shipped, see the Dockerfile.
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", "grpcnotrace",
		"-ldflags", "-s -w -X main.version="+string(bytes.TrimSpace(version)), "-o", path, "github.com/lbproxy/lbproxy/cmd/lbproxy")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building lbproxy: %w; run bench within lbproxy's tree: %s", err, bytes.TrimSpace(output))
	}
	return path, nil
}

// command is p's process, without its directory.
func (b *binaries) command(p proxy) *exec.Cmd { return b.exec(context.Background(), p, p.args...) }

func (b *binaries) exec(ctx context.Context, p proxy, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, b.paths[p.program], args...)
	if p.isPeer() && b.libraries != "" {
		cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+b.libraries)
	}
	return cmd
}

// version is the first line of the version that p's program prints.
func (b *binaries) version(ctx context.Context, p proxy) (string, error) {
	output, err := b.exec(ctx, p, p.version).CombinedOutput()
	output = bytes.TrimSpace(output)
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", b.paths[p.program], p.version, err, output)
	}
	line, _, _ := strings.Cut(string(output), "\n")
	return line, nil
}
