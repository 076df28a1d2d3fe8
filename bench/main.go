//go:build linux

// Command bench measures what a call costs in lbproxy and in the proxies it is compared to, side by side on one
// machine, and writes the table of docs/benchmarks.md.
//
// It decides what is measured, against what and in which order. It starts every process that takes part: the
// backends ("bench echo"), the proxy, and the callers ("bench load"), each for itself, so that the system's
// accounts of their CPU and memory tell them apart. All of them end with it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run is the whole command. With echo or load as the first argument it is one of its own helpers.
func run(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	if len(args) > 0 {
		switch args[0] {
		case "echo":
			return echo(ctx, out)
		case "load":
			return load(ctx, in, out)
		}
	}
	var o options
	if err := o.parse(args); err != nil {
		return err
	}
	r, err := o.compare(ctx)
	if err != nil {
		return err
	}
	return errors.Join(o.write(r, out), r.err())
}

// options are the command line's.
type options struct {
	scenarios []scenario
	proxies   []proxy
	rounds    int
	warmup    time.Duration
	duration  time.Duration
	quiet     float64
	quietWait time.Duration
	peers     string
	lbproxy   string
	table     string
	raw       string
}

func (o *options) parse(args []string) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	chosen := flags.String("scenarios", strings.Join(names(scenarios), ","), "what to measure")
	through := flags.String("proxies", strings.Join(names(proxies), ","), "what to measure it through")
	flags.IntVar(&o.rounds, "rounds", 5, "how often to measure everything")
	flags.DurationVar(&o.warmup, "warmup", 500*time.Millisecond, "load before each measurement")
	flags.DurationVar(&o.duration, "duration", 2500*time.Millisecond, "how long each measurement takes")
	flags.Float64Var(&o.quiet, "quiet", 15, "the `percentage` of the machine that processes of others may use; 0 for any")
	flags.DurationVar(&o.quietWait, "quiet-wait", 5*time.Minute, "how long to wait for that, and to repeat what was disturbed, in all")
	flags.StringVar(&o.peers, "peers", "debian", "`where` nginx, HAProxy and nghttpx come from: debian fetches their packages,"+
		" path finds them in PATH, none leaves them out, and a directory is the root of packages already unpacked")
	flags.StringVar(&o.lbproxy, "lbproxy", "", "an lbproxy to measure in place of the one built from this tree")
	flags.StringVar(&o.table, "o", "", "`file` for the tables; empty for standard output")
	flags.StringVar(&o.raw, "json", "", "`file` for every single measurement; empty for none")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("argument %q is not understood; see bench -help", flags.Arg(0))
	}
	if o.rounds < 1 || o.duration <= 0 || o.warmup < 0 {
		return errors.New("-rounds and -duration must be above 0, and -warmup not below")
	}
	var faults [2]error
	o.scenarios, faults[0] = choose("scenario", scenarios, *chosen)
	o.proxies, faults[1] = choose("proxy", proxies, *through)
	if o.peers == "none" {
		o.proxies = slices.DeleteFunc(o.proxies, func(p proxy) bool { return p.isPeer() })
	}
	return errors.Join(faults[:]...)
}

// named is what can be chosen by a flag.
type named interface{ String() string }

func names[T named](all []T) []string {
	var list []string
	for _, one := range all {
		list = append(list, one.String())
	}
	return list
}

// choose returns those of all that list names, in the order of list.
func choose[T named](what string, all []T, list string) ([]T, error) {
	var chosen []T
	for name := range strings.SplitSeq(list, ",") {
		i := slices.Index(names(all), name)
		if i < 0 {
			return nil, fmt.Errorf("%s %q is unknown; there are %s", what, name, strings.Join(names(all), ", "))
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// write stores r where the flags say.
func (o *options) write(r *report, out io.Writer) error {
	if o.raw != "" {
		if err := store(o.raw, r.writeJSON); err != nil {
			return err
		}
	}
	if o.table == "" {
		return r.writeMarkdown(out)
	}
	return store(o.table, r.writeMarkdown)
}

func store(path string, write func(io.Writer) error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(file), file.Close())
}
