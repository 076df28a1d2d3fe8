package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/lbproxy/lbproxy/internal/terminal"
	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy"
)

// servicesText formats services for people: a line each, or everything that is known of a single one.
func servicesText(all []proxy.ServiceStatus, one bool, now time.Time) string {
	var b strings.Builder
	if one {
		writeService(&b, all[0], now)
		return b.String()
	}
	writeTable(&b, func(w io.Writer) { serviceRows(w, all) })
	writeRegistryErrors(&b, all)
	writeRegistryNotes(&b, all)
	return b.String()
}

func writeTable(w io.Writer, rows func(io.Writer)) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	rows(t)
	t.Flush()
}

func serviceRows(w io.Writer, all []proxy.ServiceStatus) {
	fmt.Fprintln(w, "SERVICE\tPOLICY\tINSTANCES\tREADY\tIN FLIGHT\tCALLS\tCALLS/S\tERRORS\tP99\tREVISION\tREGISTRY\tWATCHED")
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
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\t%s\t%d\t%s\t%s\n",
			s.Service, s.Policy, len(s.Instances), ready, s.InFlight, s.Calls, recentColumns(s.Recent), s.Revision,
			registryColumn(s), watched)
	}
}

// registryColumn is what the registry says of a service, and how long ago it confirmed that.
func registryColumn(s proxy.ServiceStatus) string {
	var words []string
	switch s.Registry {
	case proxy.RegistryUnsynced:
		words = append(words, "has not answered")
	case proxy.RegistryUnknown, proxy.RegistryEmpty:
		words = append(words, string(s.Registry))
	}
	if n := len(s.Poisoned); n > 0 {
		words = append(words, fmt.Sprintf("%d poisoned", n))
	}
	if s.Confirmed != nil {
		words = append(words, age(*s.Confirmed).String()+" ago")
	}
	return cmp.Or(strings.Join(words, ", "), "-")
}

// writeRegistryErrors writes each distinct reason why the registry cannot confirm what is shown.
func writeRegistryErrors(w io.Writer, all []proxy.ServiceStatus) {
	said := map[string]bool{}
	for _, s := range all {
		if s.RegistryError != "" && !said[s.RegistryError] {
			said[s.RegistryError] = true
			fmt.Fprintf(w, "The registry cannot confirm %s: %s\n", s.Service, oneLine(s.RegistryError))
		}
	}
}

// writeRegistryNotes writes each distinct note on how the registry confirms what is shown.
func writeRegistryNotes(w io.Writer, all []proxy.ServiceStatus) {
	said := map[string]bool{}
	for _, s := range all {
		if s.RegistryNote != "" && !said[s.RegistryNote] {
			said[s.RegistryNote] = true
			fmt.Fprintf(w, "Note: %s.\n", s.RegistryNote)
		}
	}
}

func writeService(w io.Writer, s proxy.ServiceStatus, now time.Time) {
	if len(s.Instances) > 0 {
		writeTable(w, func(w io.Writer) { instanceRows(w, s.Instances, now) })
	}
	if len(s.Poisoned) > 0 {
		writeTable(w, func(w io.Writer) {
			fmt.Fprintln(w, "POISONED ENTRY\tREVISION\tFAULT")
			for _, p := range s.Poisoned {
				fmt.Fprintf(w, "%s\t%d\t%s\n", oneLine(p.Key), p.Revision, oneLine(p.Fault))
			}
		})
	}
	fmt.Fprintln(w, standingText(s))
	writeRegistryNotes(w, []proxy.ServiceStatus{s})
}

// standingText is what the registry says of the service, and when it last confirmed that.
func standingText(s proxy.ServiceStatus) string {
	why := ""
	if s.RegistryError != "" {
		why = ": " + oneLine(s.RegistryError)
	}
	if s.Registry == proxy.RegistryUnsynced {
		return fmt.Sprintf("The registry has not answered yet, so nothing is known of %s%s.", s.Service, why)
	}
	text := ""
	switch {
	case s.Registry == proxy.RegistryUnknown:
		text = fmt.Sprintf("%s is unknown: nothing has been registered under this name; check the name, and that an instance runs and registers.\n", s.Service)
	case s.Registry == proxy.RegistryEmpty && len(s.Poisoned) > 0:
		text = fmt.Sprintf("%s has no instances: no entry in the registry can be used; put them right.\n", s.Service)
	case s.Registry == proxy.RegistryEmpty:
		text = fmt.Sprintf("%s has no instances: none is registered now; start one.\n", s.Service)
	}
	switch {
	case s.Confirmed == nil:
		return text + fmt.Sprintf("As of revision %d of the registry%s.", s.Revision, why)
	case s.RegistryError != "":
		return text + fmt.Sprintf("The registry confirmed this %s ago, revision %d, and cannot now%s.", age(*s.Confirmed), s.Revision, why)
	}
	return text + fmt.Sprintf("The registry confirmed this %s ago, revision %d.", age(*s.Confirmed), s.Revision)
}

func instanceRows(w io.Writer, instances []picker.EndpointStatus, now time.Time) {
	fmt.Fprintln(w, "ADDRESS\tVERSION\tWEIGHT\tSTATE\tFOR\tIN FLIGHT\tCALLS\tCALLS/S\tERRORS\tP99\tLAST ERROR")
	for _, in := range instances {
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%d\t%d\t%s\t%s\n",
			in.Addr, cmp.Or(in.Version, "-"), in.Weight, in.State, now.Sub(in.Since).Round(time.Second),
			in.InFlight, in.Calls, recentColumns(in.Recent), lastErrorColumn(in, now))
	}
}

// errorKept is how long an endpoint that is ready again still shows its last error.
const errorKept = time.Minute

func lastErrorColumn(in picker.EndpointStatus, now time.Time) string {
	ago := now.Sub(in.LastErrorAt)
	if in.LastError == "" || in.State == picker.Ready.String() && ago > errorKept {
		return "-"
	}
	return fmt.Sprintf("%s ago: %s", age(ago.Seconds()), oneLine(in.LastError))
}

// recentColumns are CALLS/S, ERRORS and P99.
func recentColumns(r *metrics.Recent) string {
	if r == nil {
		return "-\t-\t-"
	}
	p99 := time.Duration(r.P99Seconds * float64(time.Second))
	return fmt.Sprintf("%.1f\t%.1f%%\t%s", r.CallsPerSecond, 100*r.ErrorShare, p99.Round(roundingOf(p99)))
}

// roundingOf is the unit that leaves two or three digits of a duration.
func roundingOf(d time.Duration) time.Duration {
	unit := time.Microsecond
	for 1000*unit <= d {
		unit *= 10
	}
	return unit
}

func age(seconds float64) time.Duration {
	return time.Duration(max(0, seconds) * float64(time.Second)).Round(time.Second)
}

// oneLine makes untrusted text, such as an instance's words in its last error, safe for a cell of a table.
func oneLine(text string) string { return terminal.Printable(strings.Join(strings.Fields(text), " ")) }
