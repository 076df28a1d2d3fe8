package app

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/lbproxy/lbproxy/configs"
	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/discovery/file"
	"github.com/lbproxy/lbproxy/metrics"
)

// source is a discovery.Source with a beginning and an end.
type source interface {
	discovery.Source
	// Probe reports why the registry cannot be read.
	Probe(context.Context) error
	Close()
}

func newSource(cfg *configs.Config, m *metrics.Discovery, log *zap.Logger) (source, error) {
	if path := cfg.Discovery.File.Path; path != "" {
		return file.New(path, m, log), nil
	}
	client, err := discovery.NewEtcdClient(cfg.Discovery.Etcd.DiscoveryConfig(), log)
	if err != nil {
		return nil, err
	}
	return etcdSource{discovery.NewEtcd(client, m, log), client}, nil
}

// etcdSource owns its client.
type etcdSource struct {
	*discovery.Etcd
	client *discovery.EtcdClient
}

func (s etcdSource) Close() { s.client.Close() }

const probeInterval = 500 * time.Millisecond

// awaitSource makes the proxy ready once the registry has answered. A registry that goes away later does not
// make it unready: calls go on to the instances last known.
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
