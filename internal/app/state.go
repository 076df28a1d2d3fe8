package app

import (
	"errors"
	"fmt"

	"go.uber.org/zap"

	"github.com/lbproxy/lbproxy/configs"
	"github.com/lbproxy/lbproxy/traffic"
)

// Ready returns nil when the proxy can take calls, and otherwise why not.
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

// Reload applies what can change while the proxy runs (services, routes, the log level) and logs what needs a restart.
func (a *App) Reload(next *configs.Config) {
	a.reload.Lock()
	defer a.reload.Unlock()
	now, changed, restart := a.config.Load().Reload(next)
	a.config.Store(now)
	a.setLevel(now) // first, because what follows logs
	a.services.Configure(rules(now))
	a.reloads.Reloaded(len(restart))
	if len(changed) > 0 {
		a.log.Info("configuration changed", zap.Strings("keys", changed))
	}
	if len(restart) > 0 {
		a.log.Warn("some changes of the configuration take effect after a restart only", zap.Strings("keys", restart))
	}
}

// ReloadFailed reports a configuration that cannot be used; the running one stays.
func (a *App) ReloadFailed(err error) {
	a.reloads.Rejected()
	a.log.Error("new configuration is wrong; the running one stays", zap.Error(err))
}

func (a *App) setLevel(cfg *configs.Config) {
	if level, err := zap.ParseAtomicLevel(cfg.Log.Level); err == nil { // validated before
		a.level.SetLevel(level.Level())
	}
}

func rules(cfg *configs.Config) *traffic.Rules {
	return &traffic.Rules{Routes: cfg.Routes, Services: cfg.Services}
}
