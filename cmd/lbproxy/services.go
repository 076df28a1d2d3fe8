package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/lbproxy/lbproxy/configs"
	"github.com/lbproxy/lbproxy/internal/terminal"
	"github.com/lbproxy/lbproxy/proxy"
)

// Exit codes of services NAME where there is no instance to show, by the state of the registry.
const (
	exitUnsynced = 3
	exitUnknown  = 4
	exitEmpty    = 5
)

func newServicesCommand() *cobra.Command {
	var f servicesFlags
	cmd := &cobra.Command{
		Use:   "services [NAME]",
		Short: "Show what the local proxy knows of its services",
		Long: `Show the services that the proxy on this host watches, or the instances of one of them. CALLS/S, ERRORS and P99 are
of the calls that ended in the last minute.

Of one service, exits with 3 if the registry has not answered yet, 4 if nothing has been registered under its name,
and 5 if nothing that can be used is registered now.`,
		Example: `  lbproxy services
  lbproxy services hello
  lbproxy services hello --watch
  lbproxy services hello -o json | jq '.instances[] | select(.state != "ready")'`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.output != "table" && f.output != "json" {
				return usageError(fmt.Errorf("output %q is unknown; use table or json", f.output))
			}
			if f.watch && f.output != "table" {
				return usageError(errors.New("--watch goes with -o table only"))
			}
			if f.watch {
				return f.keepShowing(cmd.Context(), cmd.OutOrStdout(), args)
			}
			return f.show(cmd.Context(), cmd.OutOrStdout(), args)
		},
	}
	cmd.Flags().StringVar(&f.admin, "admin", configs.Default().Admin.Address, "the proxy's admin address")
	cmd.Flags().StringVarP(&f.output, "output", "o", "table", "table or json")
	cmd.Flags().BoolVarP(&f.watch, "watch", "w", false, "show it again every second, until SIGINT")
	return cmd
}

type servicesFlags struct {
	admin, output string
	watch         bool
}

// show prints the current state. The error for a service without instances carries only its exit code.
func (f *servicesFlags) show(ctx context.Context, w io.Writer, args []string) error {
	body, all, err := f.fetch(ctx, args)
	if err != nil {
		return err
	}
	text := body
	if f.output == "table" {
		text = []byte(servicesText(all, len(args) == 1, time.Now()))
	}
	if _, err := w.Write(text); err != nil {
		return err
	}
	if len(args) == 1 {
		return standingError(all[0].Registry)
	}
	return nil
}

func standingError(r proxy.RegistryState) error {
	switch r {
	case proxy.RegistryUnsynced:
		return &exitError{code: exitUnsynced}
	case proxy.RegistryUnknown:
		return &exitError{code: exitUnknown}
	case proxy.RegistryEmpty:
		return &exitError{code: exitEmpty}
	}
	return nil
}

const watchInterval = time.Second

// keepShowing prints the state every second until SIGINT or SIGTERM: in place on a terminal, one after the other
// elsewhere. A proxy that has answered once and then stops answering is waited for.
func (f *servicesFlags) keepShowing(ctx context.Context, w io.Writer, args []string) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	draw := func(text string) error { _, err := fmt.Fprintln(w, text); return err }
	if screen := terminal.NewScreen(w); screen != nil {
		draw = screen.Draw
	}
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for first := true; ; first = false {
		_, all, err := f.fetch(ctx, args)
		text := ""
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			text = servicesText(all, len(args) == 1, time.Now())
		case first:
			return err
		default:
			text = err.Error() + "\n"
		}
		if err := draw(text); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// fetch asks the proxy for the service named in args, or for all of them.
func (f *servicesFlags) fetch(ctx context.Context, args []string) (body []byte, all []proxy.ServiceStatus, err error) {
	if len(args) == 0 {
		if body, err = getAdmin(ctx, f.admin, "/services"); err == nil {
			err = json.Unmarshal(body, &all)
		}
		return body, all, err
	}
	all = make([]proxy.ServiceStatus, 1)
	if body, err = getAdmin(ctx, f.admin, "/services/"+url.PathEscape(args[0])); err == nil {
		err = json.Unmarshal(body, &all[0])
	}
	return body, all, err
}

const adminTimeout = 5 * time.Second

func getAdmin(ctx context.Context, addr, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		return nil, usageError(fmt.Errorf("admin address %q: %w", addr, err))
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("no proxy answers at %s; check that it runs, or name its admin.address with --admin: %w", addr, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("answer of %s: %w", addr, err)
	}
	if resp.StatusCode == http.StatusOK {
		return body, nil
	}
	var refusal struct{ Error string }
	if json.Unmarshal(body, &refusal) == nil && refusal.Error != "" {
		return nil, errors.New(refusal.Error)
	}
	return nil, fmt.Errorf("%s answers %s to %s; check that it is the admin address of an lbproxy", addr, resp.Status, path)
}
