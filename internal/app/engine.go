package app

import (
	"os"
	"runtime"

	"go.uber.org/zap"

	"github.com/lbproxy/lbproxy/configs"
	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/proxy/grpcengine"
	"github.com/lbproxy/lbproxy/proxy/relay"
)

func newEngine(cfg *configs.Config, m *metrics.Metrics, log *zap.Logger) proxy.Engine {
	if cfg.Engine != configs.EngineRelay {
		return grpcengine.New()
	}
	r := cfg.Relay
	return relay.New(relay.Config{
		Workers:          workers(r),
		Memory:           int64(r.MemoryMiB) << 20,
		MaxStreams:       uint32(r.MaxStreams),
		MaxHeaderList:    uint32(r.MaxHeaderListKiB) << 10,
		MaxGlitches:      r.MaxGlitches,
		MaxUnread:        r.MaxUnreadMiB << 20,
		MaxConnections:   r.MaxEndpointConnections,
		MaxConnectionAge: r.MaxConnectionAge,
		HandshakeTimeout: r.HandshakeTimeout,
	}, m, log)
}

func workers(r configs.Relay) int {
	if r.Workers > 0 {
		return r.Workers
	}
	return relay.DefaultWorkers()
}

// UseCores has the process use a thread for each worker of the relay, and one for all else. More of them would only
// take from the callers. The environment's GOMAXPROCS goes before. It is for a process that does nothing else.
func UseCores(cfg *configs.Config) {
	if cfg.Engine == configs.EngineRelay && os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(workers(cfg.Relay) + 1)
	}
}
