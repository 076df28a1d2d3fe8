package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/lbproxy/lbproxy/configs"
	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy"
)

func newServicesCommand() *cobra.Command {
	var admin, output string
	cmd := &cobra.Command{
		Use:   "services [NAME]",
		Short: "Show what the local proxy knows of its services",
		Long:  "Show the services that the proxy on this host watches, or the instances of one of them.",
		Example: `  lbproxy services
  lbproxy services hello
  lbproxy services hello -o json | jq '.instances[] | select(.state != "ready")'`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			show, ok := map[string]func(io.Writer, []byte, bool) error{"table": showTable, "json": showJSON}[output]
			if !ok {
				return usageError(fmt.Errorf("output %q is unknown; use table or json", output))
			}
			path := "/services"
			if len(args) == 1 {
				path += "/" + url.PathEscape(args[0])
			}
			body, err := getAdmin(cmd.Context(), admin, path)
			if err != nil {
				return err
			}
			return show(cmd.OutOrStdout(), body, len(args) == 1)
		},
	}
	cmd.Flags().StringVar(&admin, "admin", configs.Default().Admin.Address, "the proxy's admin address")
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
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

func showJSON(w io.Writer, body []byte, _ bool) error {
	_, err := w.Write(body)
	return err
}

func showTable(w io.Writer, body []byte, one bool) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if one {
		var s proxy.ServiceStatus
		if err := json.Unmarshal(body, &s); err != nil {
			return err
		}
		instanceRows(t, s)
		return t.Flush()
	}
	var all []proxy.ServiceStatus
	if err := json.Unmarshal(body, &all); err != nil {
		return err
	}
	serviceRows(t, all)
	return t.Flush()
}

func serviceRows(w io.Writer, all []proxy.ServiceStatus) {
	fmt.Fprintln(w, "SERVICE\tPOLICY\tINSTANCES\tREADY\tIN FLIGHT\tCALLS\tREVISION\tWATCHED")
	for _, s := range all {
		ready := 0
		for _, in := range s.Instances {
			if in.State == picker.Ready.String() {
				ready++
			}
		}
		watched := "on demand"
		if s.Listed {
			watched = "always"
		}
		if !s.Synced {
			watched += ", registry has not answered"
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\t%d\t%s\n",
			s.Service, s.Policy, len(s.Instances), ready, s.InFlight, s.Calls, s.Revision, watched)
	}
}

func instanceRows(w io.Writer, s proxy.ServiceStatus) {
	fmt.Fprintln(w, "ADDRESS\tVERSION\tWEIGHT\tSTATE\tFOR\tIN FLIGHT\tCALLS\tLAST ERROR")
	for _, in := range s.Instances {
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%d\t%d\t%s\n",
			in.Addr, cmp.Or(in.Version, "-"), in.Weight, in.State, time.Since(in.Since).Round(time.Second),
			in.InFlight, in.Calls, cmp.Or(in.LastError, "-"))
	}
}
