package app

import (
	"os"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/lbproxy/lbproxy/configs"
	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/proxy/grpcengine"
	"github.com/lbproxy/lbproxy/proxy/relay"
	"github.com/lbproxy/lbproxy/proxy/transport"
)

// newEngine makes the configured engine. Admin is the address of the admin API.
func newEngine(cfg *configs.Config, router *proxy.Router, admin string, reg prometheus.Registerer, log *zap.Logger) proxy.Engine {
	dialer := transport.NewDialer()
	d := transport.NewDescriptors(transport.DescriptorLimit(), descriptorsInUse(cfg), metrics.NewDescriptors(reg), log)
	if cfg.Engine != configs.EngineRelay {
		return grpcengine.New(router, dialer, d, admin, log)
	}
	r := cfg.Relay
	c := relay.Config{
		Workers:          workers(r),
		Memory:           int64(r.MemoryMiB) << 20,
		MaxStreams:       uint32(r.MaxStreams),
		MaxHeaderList:    uint32(r.MaxHeaderListKiB) << 10,
		MaxGlitches:      r.MaxGlitches,
		MaxUnread:        r.MaxUnreadMiB << 20,
		MaxConnections:   r.MaxEndpointConnections,
		MaxConnectionAge: r.MaxConnectionAge,
		HandshakeTimeout: r.HandshakeTimeout,
		Admin:            admin,
	}
	return relay.New(c, router, dialer, d, metrics.NewRelay(reg, c.Workers, c.Memory), log)
}

// descriptorsInUse is how many file descriptors are in use for the life of the process: standard input and outputs, Go's
// poller, file watches, connections to etcd, listeners, and the workers' pollers.
func descriptorsInUse(cfg *configs.Config) int {
	const process, etcdMember, worker = 16, 2, 4
	n := process + len(cfg.Listeners)
	if cfg.Discovery.Etcd != nil {
		n += etcdMember * len(cfg.Discovery.Etcd.Endpoints)
	}
	if cfg.Engine == configs.EngineRelay {
		n += worker * workers(cfg.Relay)
	}
	return n
}

func workers(r configs.Relay) int {
	if r.Workers > 0 {
		return r.Workers
	}
	return relay.DefaultWorkers()
}

// UseDescriptors lets the process use all the file descriptors it may have. It is for a process that starts no other,
// which would inherit the limit.
func UseDescriptors(log *zap.Logger) {
	if err := transport.RaiseDescriptorLimit(); err != nil {
		log.Warn("the limit of file descriptors stays as it is", zap.Error(err))
	}
}

// UseCores limits the process to a thread for each worker of the relay and one for everything else: more would only take
// cores from the callers. GOMAXPROCS in the environment overrides it. It is for a process that does nothing else.
func UseCores(cfg *configs.Config) {
	if cfg.Engine == configs.EngineRelay && os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(workers(cfg.Relay) + 1)
	}
}
