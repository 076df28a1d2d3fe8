package app

import (
	"errors"
	"fmt"

	"go.uber.org/zap"

	"github.com/lbproxy/lbproxy/configs"
	"github.com/lbproxy/lbproxy/proxy"
)

// Ready returns nil when calls can be taken, and otherwise why not.
func (a *App) Ready() error {
	if a.draining.Load() {
		return errors.New("draining")
	}
	if unmet := a.unmet.Load(); unmet != nil {
		return *unmet
	}
	name, err := a.services.Unsynced()
	switch {
	case name == "":
		return nil
	case err == nil:
		return fmt.Errorf("nothing is known of service %q yet", name)
	default:
		return fmt.Errorf("nothing is known of service %q yet: %w", name, err)
	}
}

func (a *App) redactedConfig() any { return a.config.Load().Redacted() }

// Reload takes over what can change while the proxy runs (services, routes, the log level) and logs what
// takes a restart.
func (a *App) Reload(next *configs.Config) {
	a.reload.Lock()
	defer a.reload.Unlock()
	now, changed, restart := a.config.Load().Reload(next)
	a.config.Store(now)
	a.apply(now)
	a.reloads.Reloaded(len(restart))
	if len(changed) > 0 {
		a.log.Info("configuration changed", zap.Strings("keys", changed))
	}
	if len(restart) > 0 {
		a.log.Warn("some changes of the configuration take effect after a restart only", zap.Strings("keys", restart))
	}
}

// ReloadFailed tells of a configuration that cannot be used: the running one stays.
func (a *App) ReloadFailed(err error) {
	a.reloads.Rejected()
	a.log.Error("new configuration is wrong; the running one stays", zap.Error(err))
}

func (a *App) apply(cfg *configs.Config) {
	// First, because what follows logs.
	if level, err := zap.ParseAtomicLevel(cfg.Log.Level); err == nil { // validated before
		a.level.SetLevel(level.Level())
	}
	services := map[string]proxy.ServiceConfig{}
	for name, s := range cfg.Services {
		services[name] = serviceConfig(s)
	}
	a.services.Configure(services)
	var routes []proxy.Route
	for _, r := range cfg.Routes {
		routes = append(routes, proxy.Route(r))
	}
	a.policy.SetRoutes(routes)
}

func serviceConfig(s configs.Service) proxy.ServiceConfig {
	return proxy.ServiceConfig{
		Policy: s.Policy, Version: s.Version, WaitTimeout: s.WaitTimeout, Keepalive: proxy.Keepalive(s.Keepalive),
	}
}
