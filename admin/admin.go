// Package admin shows people and machines what the proxy knows and does, over HTTP. It only reads.
package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/pprof"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/lbproxy/lbproxy/proxy"
)

// State is what the admin API reads. All of it may be called from many goroutines.
type State struct {
	// Ready returns nil when the proxy can take calls, and otherwise why not.
	Ready func() error
	// Services holds the watched services.
	Services *proxy.Directory
	// Config returns the running configuration, without secrets, in a form that marshals to JSON.
	Config  func() any
	Metrics prometheus.Gatherer
}

// Handler serves everything.
func Handler(s State) http.Handler {
	mux := http.NewServeMux()
	s.registerPublic(mux)
	mux.HandleFunc("GET /services", s.services)
	mux.HandleFunc("GET /services/{name}", s.service)
	mux.HandleFunc("GET /config", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, s.Config()) })
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("GET /{$}", index)
	return mux
}

// PublicHandler serves only what Prometheus or a health checker on another host needs.
func PublicHandler(s State) http.Handler {
	mux := http.NewServeMux()
	s.registerPublic(mux)
	return mux
}

func (s State) registerPublic(mux *http.ServeMux) {
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.Metrics, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", s.readyz)
}

func (s State) readyz(w http.ResponseWriter, _ *http.Request) {
	if err := s.Ready(); err != nil {
		http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ready")
}

func (s State) services(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, s.Services.Status())
}

func (s State) service(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	status, ok := s.Services.ServiceStatus(name)
	if !ok {
		writeJSON(w, http.StatusNotFound, map[string]string{
			"error": fmt.Sprintf("service %q is not watched: no call has asked for it lately and the configuration does not list it", name),
		})
		return
	}
	writeJSON(w, http.StatusOK, status)
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	w.Write(append(body, '\n'))
}

func index(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprint(w, `lbproxy admin

/healthz           the process lives
/readyz            it can take calls, or why not
/metrics           Prometheus metrics
/services          every service that is watched, and its instances
/services/{name}   one of them
/config            the running configuration
/debug/pprof/      profiles of the process
`)
}
