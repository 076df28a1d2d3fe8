// Package traffic holds the rules for calls as data: which service a call is for, and how each service's calls are
// balanced and connected.
//
// It decides what rules can say and which of them a call meets. It is pure: rules come from a configuration, and
// whoever holds them decides when they are replaced. What is done about a call that meets none, and which endpoint
// gets one that does, is left to package proxy.
package traffic

import (
	"time"

	"github.com/lbproxy/lbproxy/picker"
)

// Rules are what is to be done with calls. They are valid, and never modified once they are in use.
type Rules struct {
	Routes   []Route            // the first that matches wins
	Services map[string]Service // those that are listed, by name
}

// Service is how the calls of one service are balanced, and its endpoints connected.
type Service struct {
	Policy      string        `yaml:"policy"`       // see [picker.ValidatePolicy]
	Version     string        `yaml:"version"`      // of instances, for calls that name none themselves; empty for all
	WaitTimeout time.Duration `yaml:"wait_timeout"` // how long a call may wait for a ready endpoint
	Keepalive   Keepalive     `yaml:"keepalive"`
	_           struct{}      `yaml:"tls" reserved:"TLS to the backends is not built yet and this key is kept for it; remove it"`
}

// Keepalive is how backends that say nothing while calls run are found dead by HTTP/2 PINGs. The relay's.
type Keepalive struct {
	Time    time.Duration `yaml:"time"`    // of silence, after which a PING asks; 0 for never
	Timeout time.Duration `yaml:"timeout"` // for the answer
}

// DefaultService returns the settings of services that are not listed.
func DefaultService() Service {
	return Service{
		Policy: picker.WeightedRoundRobin, WaitTimeout: time.Second, Keepalive: Keepalive{Timeout: 20 * time.Second},
	}
}

// SetDefaults makes s what it is where nothing else is configured.
func (s *Service) SetDefaults() { *s = DefaultService() }

// Service returns the settings of a service, and whether it is listed.
func (r *Rules) Service(name string) (_ Service, listed bool) {
	if s, ok := r.Services[name]; ok {
		return s, true
	}
	return DefaultService(), false
}
