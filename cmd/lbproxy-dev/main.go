// Command lbproxy-dev is a playground that needs no set-up: etcd, some gRPC servers registered in it, lbproxy in
// front of them and a client that calls them through it, all in this process and on loopback.
//
// It exits with 0 when all went well, 1 after a failure (with --once, also when the shares do not match the
// weights) and 2 when its usage is wrong.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/internal/flagfault"
	"github.com/lbproxy/lbproxy/picker"
)

func main() {
	// If the reader of our output goes away, as head does, etcd's files must not stay behind: let the write fail.
	signal.Ignore(syscall.SIGPIPE)
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}

const (
	exitFailure = 1
	exitUsage   = 2

	maxBackends = 100
	maxRate     = 10_000
)

// A failure is an error other than wrong usage.
type failure struct{ error }

func (f failure) Unwrap() error { return f.error }

// run is the whole program; it returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	cmd := newCommand()
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		if !strings.HasPrefix(line, " ") { // not a continuation of the line before
			line = "lbproxy-dev: " + line
		}
		fmt.Fprintln(stderr, line)
	}
	if errors.As(err, new(failure)) {
		return exitFailure
	}
	fmt.Fprintln(stderr, "Run 'lbproxy-dev --help' for usage.")
	return exitUsage
}

// options are the flags.
type options struct {
	listen, admin, etcd    address
	servers, weightAddress address // servers is the first server's; the others use the ports that follow
	backends               int
	weights                []int // one for each server
	policy                 string
	rate                   int // calls per second
	once                   bool
	output                 string // table or json
	verbose                bool
}

func newCommand() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "lbproxy-dev",
		Short: "A playground: etcd, gRPC servers, lbproxy and calls, in one process",
		Long: `Run a playground that needs no set-up: etcd in a temporary directory, gRPC servers of the service "hello"
registered in it, lbproxy in front of them, and a client that calls them through it.

It shows the addresses to try, how to register a service of your own and call it, and a live table of the share
of the calls that each server gets. Change a weight and see the shares follow. Ctrl-C stops everything and leaves
nothing behind.

Addresses are the same each time, unless they are taken; with --once they are any free ones.`,
		Example: `  # Play; everything to try is printed
  lbproxy-dev

  # Send 1000 calls and exit with 0 if the shares match the weights
  lbproxy-dev --once
  lbproxy-dev --once -o json

  # Other weights, another policy, another rate
  lbproxy-dev --weights 1,2,3 --policy least_request --rate 1000`,
		Args:          cobra.NoArgs,
		SilenceErrors: true, // run reports them
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.complete(cmd.Flags().Changed); err != nil {
				return err
			}
			if err := o.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr()); err != nil {
				return failure{err}
			}
			return nil
		},
	}
	flags := cmd.Flags()
	o.listen.add(cmd, "listen", "127.0.0.1:7070", "host:port where lbproxy takes calls")
	o.admin.add(cmd, "admin", "127.0.0.1:7071", "host:port of lbproxy's admin API")
	o.etcd.add(cmd, "etcd", "127.0.0.1:2379", "host:port of etcd")
	o.weightAddress.add(cmd, "weight-address", "127.0.0.1:7072", "host:port where the servers' weights are changed over HTTP")
	o.servers.add(cmd, "servers", "127.0.0.1:7081", "host:port of the first server, which the others follow port by port")
	flags.IntSliceVar(&o.weights, "weights", []int{1, 1, 1, 1, 10}, "weight of each server, 0 (drained) to 65535")
	flags.IntVar(&o.backends, "backends", 0, "number of servers, each of weight 1, instead of --weights")
	flags.StringVar(&o.policy, "policy", picker.WeightedRoundRobin,
		"how servers take turns: weighted_round_robin, round_robin, random or least_request")
	flags.IntVar(&o.rate, "rate", 200, "calls per second; 0 leaves the calling to you")
	flags.BoolVar(&o.once, "once", false, "send 1000 calls, show the shares and exit, with 1 unless they match the weights")
	flags.StringVarP(&o.output, "output", "o", "table", "form of what --once shows: table or json")
	flags.BoolVarP(&o.verbose, "verbose", "v", false, "log what lbproxy and the registrations do, to standard error")
	cmd.SetFlagErrorFunc(flagfault.Explain)
	cmd.MarkFlagsMutuallyExclusive("weights", "backends")
	cmd.MarkFlagsMutuallyExclusive("rate", "once")
	return cmd
}

// complete resolves the flags against each other. The error names everything that is wrong with them.
func (o *options) complete(given func(flag string) bool) error {
	var errs []error
	if given("backends") {
		if o.backends < 1 || o.backends > maxBackends {
			return fmt.Errorf("--backends: %d servers cannot be had; use 1 to %d", o.backends, maxBackends)
		}
		o.weights = slices.Repeat([]int{discovery.DefaultWeight}, o.backends)
	}
	if n := len(o.weights); n > maxBackends {
		errs = append(errs, fmt.Errorf("--weights: %d servers cannot be had; name 1 to %d", n, maxBackends))
	}
	for _, w := range o.weights {
		if err := discovery.ValidateWeight(w); err != nil {
			errs = append(errs, fmt.Errorf("--weights: %w", err))
		}
	}
	if err := picker.ValidatePolicy(o.policy); err != nil {
		errs = append(errs, fmt.Errorf("--policy: %w", err))
	}
	if o.rate < 0 || o.rate > maxRate {
		errs = append(errs, fmt.Errorf("--rate: %d calls per second cannot be had; use 0 to %d", o.rate, maxRate))
	}
	if o.output != "table" && o.output != "json" {
		errs = append(errs, fmt.Errorf("--output: %q is unknown; use table or json", o.output))
	}
	if o.output == "json" && !o.once {
		errs = append(errs, errors.New("--output json goes with --once only"))
	}
	addresses := []*address{&o.listen, &o.admin, &o.etcd, &o.weightAddress, &o.servers}
	for _, a := range addresses {
		a.complete(given, o.once)
		errs = append(errs, a.validate())
	}
	errs = append(errs, distinct(addresses...))
	return errors.Join(errs...)
}

// run runs the playground until a signal, or once.
func (o *options) run(ctx context.Context, stdout, stderr io.Writer) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	if o.once {
		return playOnce(ctx, o, stdout, stderr)
	}
	return play(ctx, o, stdout, stderr)
}
