// Package registrar keeps an instance registered in etcd: the other side of package registry.
//
// It decides when the registration is written, renewed, restored and given up. It leaves to package dialect what stands
// there, to package etcd how a member of etcd is reached, and to its caller when the instance starts and stops serving.
package registrar

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/discovery/dialect"
	"github.com/lbproxy/lbproxy/discovery/etcd"
	"github.com/lbproxy/lbproxy/internal/backoff"
)

const (
	defaultTTL = 10 * time.Second
	minTTL     = 2 * time.Second // etcd's own, with its default election timeout
)

// Options tune a [Registrar]. The zero value is good.
type Options struct {
	// TTL is for how long the registration outlives its process: whole seconds, at least 2; default 10 s.
	TTL time.Duration
	// Log gets each change of the registration's state, once; default none.
	Log *zap.Logger
}

// A Registrar keeps one instance registered in etcd, from Start to Stop: under a lease that it keeps alive,
// registering again, for ever, whenever the lease, the connection or the key has been lost.
//
// The key is the registrar's. What it finds there at its first registration is an earlier process's and is
// taken over. Once registered, it restores the key at once when someone deletes it. When someone else writes it,
// under whatever lease (a second process that registers the same address, or a person) it takes the key back after
// 0.5 s, then after twice as long each time, up to a minute, with a line in the log each time.
//
// Its methods may be called from many goroutines.
type Registrar struct {
	// Immutable:
	client     *etcd.Client
	dialect    dialect.LBProxy
	log        *zap.Logger
	service    string
	instance   discovery.Instance // without its weight and revisions
	ttl        time.Duration
	registered chan struct{} // closed at the first registration
	done       chan struct{} // closed when run has returned
	wake       chan struct{} // of capacity 1: the wanted weight has changed

	start  sync.Once
	cancel context.CancelFunc // ends run; written by the first Start or Stop
	stop   sync.Mutex         // held by the Stop that is deregistering

	// Owned by run, then by Stop:
	lease      lease
	heldUnder  clientv3.LeaseID // the last lease under which the key was read back
	held       int64            // the revision of the key that was read back last; 0 before the first
	written    string           // the value that was written last, whether etcd has answered or not
	retry      *backoff.Backoff
	conflicts  *backoff.Backoff
	conflictAt time.Time       // when someone else was last found to have written the key
	takeBackAt time.Time       // when to write over what someone else wrote; zero while the key is ours
	logged     map[string]bool // the kinds of error that have been logged since etcd last had the registration

	mu        sync.Mutex // protects:
	status    Status
	wanted    int           // counts SetWeight
	confirmed int           // the last SetWeight that etcd has confirmed, or a later one
	changed   chan struct{} // closed and replaced when status or confirmed changes
}

// Status is a registration as its [Registrar] last knew it, in the JSON that the weight handler shows.
type Status struct {
	Service string `json:"service"`
	Key     string `json:"key"`
	Addr    string `json:"addr"`
	Version string `json:"version"`
	// Weight is the wanted one; while Registered it is the one in etcd, but for a change on its way.
	Weight int `json:"weight"`
	// Registered is whether etcd was last seen to hold the registration, under a lease that cannot have run out since.
	// Error says why it cannot be asked, or why it holds none.
	Registered     bool   `json:"registered"`
	Error          string `json:"error,omitempty"`
	TTLSeconds     int64  `json:"ttl_seconds"`
	Lease          string `json:"lease,omitempty"` // in hexadecimal, as etcdctl has it
	CreateRevision int64  `json:"create_revision,omitempty"`
	ModRevision    int64  `json:"mod_revision,omitempty"`
}

// New makes a registrar of the instance's Addr, Version and Weight for a service. A Weight of 0
// registers the instance drained, which gets it no calls before [Registrar.SetWeight]. The error names
// everything that is wrong with the input; etcd is not asked before Start.
func New(client *etcd.Client, service string, in discovery.Instance, opts Options) (*Registrar, error) {
	if opts.TTL == 0 {
		opts.TTL = defaultTTL
	}
	if opts.Log == nil {
		opts.Log = zap.NewNop()
	}
	if err := errors.Join(
		discovery.ValidateService(service), discovery.ValidateAddr(in.Addr), discovery.ValidateVersion(in.Version), discovery.ValidateWeight(in.Weight),
		validateTTL(opts.TTL),
	); err != nil {
		return nil, err
	}
	form := dialect.LBProxy{Root: client.Root()}
	key, _ := form.Encode(service, in)
	r := &Registrar{
		client: client, dialect: form, service: service, ttl: opts.TTL,
		log:        opts.Log.With(zap.String("service", service), zap.String("key", key)),
		instance:   discovery.Instance{Addr: in.Addr, Version: in.Version, Key: key},
		registered: make(chan struct{}), done: make(chan struct{}), wake: make(chan struct{}, 1),
		logged: map[string]bool{},
		retry:  backoff.New(registerRetryMin, registerRetryMax), conflicts: backoff.New(registerRetryMin, conflictMax),
		status: Status{
			Service: service, Key: key, Addr: in.Addr, Version: in.Version, Weight: in.Weight,
			Error: "not started", TTLSeconds: int64(opts.TTL / time.Second),
		},
		changed: make(chan struct{}),
	}
	return r, nil
}

func validateTTL(ttl time.Duration) error {
	if ttl < minTTL || ttl%time.Second != 0 {
		return fmt.Errorf("ttl %v cannot be had; use whole seconds, at least %v", ttl, minTTL)
	}
	return nil
}

// Start begins to register, and returns at once. Stop must be called in the end.
func (r *Registrar) Start() {
	r.start.Do(func() {
		ctx, cancel := context.WithCancel(context.Background())
		r.cancel = cancel
		go r.run(ctx) // ends when Stop cancels ctx
	})
}

// Registered is closed once etcd has confirmed the registration for the first time.
func (r *Registrar) Registered() <-chan struct{} { return r.registered }

// Stop ends the registration: it deletes the key, unless someone else has written it since, and revokes the
// lease. It returns nil when etcd has confirmed both, and otherwise an error when ctx ends or after the
// client's request timeout, whichever is first; the registration then runs out with its lease. Stop may be
// called again to try again. A registrar that has been stopped does not start.
func (r *Registrar) Stop(ctx context.Context) error {
	r.start.Do(func() {
		r.cancel = func() {}
		close(r.done)
	})
	r.cancel()
	<-r.done
	r.stop.Lock()
	defer r.stop.Unlock()
	if r.lease.id == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, r.client.RequestTimeout())
	defer cancel()
	retry := backoff.New(stopRetryMin, stopRetryMax)
	for {
		err := r.deregister(ctx)
		if err == nil {
			r.lease = lease{}
			r.setUnregistered(errStopped)
			r.log.Info("deregistered")
			return nil
		}
		select {
		case <-time.After(retry.Next()):
		case <-ctx.Done():
			return fmt.Errorf("deregister %s at etcd %s: %w; the registration ends by itself within %v",
				r.instance.Key, r.client.Endpoints(), err, r.ttl)
		}
	}
}

// SetWeight changes the weight of the registration in place and returns when etcd has confirmed it. The error
// is of the input, or says why etcd has not confirmed by the end of ctx; in that case the weight is written
// as soon as it can be.
func (r *Registrar) SetWeight(ctx context.Context, weight int) error {
	if err := discovery.ValidateWeight(weight); err != nil {
		return err
	}
	r.mu.Lock()
	r.wanted++
	wanted := r.wanted
	r.status.Weight = weight
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default: // run has yet to see an earlier change, and will see this one with it
	}
	for {
		r.mu.Lock()
		confirmed, changed, why := r.confirmed, r.changed, r.status.Error
		r.mu.Unlock()
		if confirmed >= wanted {
			return nil
		}
		select {
		case <-changed:
		case <-r.done:
			return fmt.Errorf("weight %d of %s: %w", weight, r.instance.Key, errStopped)
		case <-ctx.Done():
			if why != "" {
				why = ": " + why
			}
			return fmt.Errorf("weight %d of %s is not confirmed by etcd yet, and is written when it can be%s: %w",
				weight, r.instance.Key, why, context.Cause(ctx))
		}
	}
}

// Status is the registration as last known.
func (r *Registrar) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status
}
