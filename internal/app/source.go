package app

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/lbproxy/lbproxy/configs"
	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/discovery/etcd"
	"github.com/lbproxy/lbproxy/discovery/file"
	"github.com/lbproxy/lbproxy/discovery/registry"
	"github.com/lbproxy/lbproxy/metrics"
)

// source is where instances come from, for as long as the process lives.
type source interface {
	discovery.Prober
	Close()
}

func newSource(cfg *configs.Config, m *metrics.Discovery, log *zap.Logger) (source, error) {
	if path := cfg.Discovery.File.Path; path != "" {
		return file.New(path, m, log), nil
	}
	client, err := etcd.NewClient(cfg.Discovery.Etcd.DiscoveryConfig(), log)
	if err != nil {
		return nil, err
	}
	return registrySource{registry.New(client, m, log), client}, nil
}

// registrySource owns its client.
type registrySource struct {
	*registry.Source
	client *etcd.Client
}

func (s registrySource) Close() { s.client.Close() }

const probeInterval = 500 * time.Millisecond

// awaitSource makes the proxy ready once the registry has answered. A registry that fails later does not make it unready:
// calls go on to the instances last known.
func (a *App) awaitSource(ctx context.Context) {
	said := ""
	for {
		err := a.source.Probe(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			a.unmet.Store(nil)
			a.log.Info("ready")
			return
		}
		a.unmet.Store(new(fmt.Errorf("nothing is known of any service yet: %w", err)))
		if err.Error() != said {
			said = err.Error()
			a.log.Warn("not ready; trying on", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(probeInterval):
		}
	}
}
