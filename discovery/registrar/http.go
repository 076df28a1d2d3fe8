package registrar

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/discovery/dialect"
)

// WeightHandler serves the weight of the registration, at any path: PUT with ?weight=N sets it (0 drains the
// instance), and both PUT and GET answer with the [Status] in JSON. A bad weight gets 400 with the
// reason; 503 means that etcd has not confirmed the weight yet, and says why.
func (r *Registrar) WeightHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) { r.serveStatus(w) })
	mux.HandleFunc("PUT /", r.serveSetWeight)
	return mux
}

func (r *Registrar) serveSetWeight(w http.ResponseWriter, req *http.Request) {
	weight, err := weightOf(req)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(req.Context(), r.client.RequestTimeout())
	defer cancel()
	if err := r.SetWeight(ctx, weight); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	r.serveStatus(w)
}

func weightOf(req *http.Request) (int, error) {
	query := req.URL.Query()
	if !query.Has("weight") {
		return 0, fmt.Errorf("no weight is given; use ?weight=N with N from 0 (drained) to %d", discovery.MaxWeight)
	}
	return dialect.ParseWeight(query.Get("weight"))
}

func (r *Registrar) serveStatus(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	// An error would be of the connection: there is nobody left to tell.
	_ = json.NewEncoder(w).Encode(r.Status())
}
