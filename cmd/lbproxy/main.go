// Command lbproxy is a per-host gRPC load balancer that finds its backends in etcd, with the tools around it.
//
// It exits with 0 when all went well, 1 after a failure and 2 when its usage or configuration is wrong;
// register with a command exits as that command did.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lbproxy/lbproxy/internal/flagfault"
)

func main() { os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr)) }

const (
	exitFailure = 1
	exitUsage   = 2
)

// An exitError ends the process with a code of its own.
type exitError struct {
	code  int
	err   error // nil when everything has been printed already
	usage bool  // point to --help
}

func (e *exitError) Error() string { return fmt.Sprintf("exit code %d: %v", e.code, e.err) }
func (e *exitError) Unwrap() error { return e.err }

// usageError is for a wrong command line, configError for a wrong configuration.
func usageError(err error) error  { return &exitError{code: exitUsage, err: err, usage: true} }
func configError(err error) error { return &exitError{code: exitUsage, err: err} }

// run is the whole program; it returns the exit code. Commands that run until a signal handle signals themselves;
// the others keep the default and end at once.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRootCommand()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	var exit *exitError
	if !errors.As(err, &exit) { // cobra's own, see newRootCommand
		exit = &exitError{code: exitUsage, err: err, usage: true}
	}
	if exit.err != nil {
		for fault := range strings.SplitSeq(exit.err.Error(), "\n") { // the faults of a file or a command line, one per line
			fmt.Fprintf(stderr, "lbproxy: %s\n", fault)
		}
	}
	if exit.usage {
		fmt.Fprintf(stderr, "Run '%s --help' for usage.\n", cmd.CommandPath())
	}
	return exit.code
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "lbproxy",
		Short:         "A per-host gRPC load balancer that finds its backends in etcd",
		SilenceErrors: true, // run reports them
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(flagfault.Explain)
	root.AddCommand(
		newServeCommand(),
		newCheckCommand(),
		newRegisterCommand(),
		newServicesCommand(),
		newVersionCommand(),
	)
	// An error of a command is a failure unless it says otherwise; cobra's own errors are wrong usage.
	for _, cmd := range root.Commands() {
		work := cmd.RunE
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			err := work(cmd, args)
			var exit *exitError
			if err == nil || errors.As(err, &exit) {
				return err
			}
			return &exitError{code: exitFailure, err: err}
		}
	}
	return root
}
