package registrar

import (
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
	"google.golang.org/grpc/status"

	"github.com/lbproxy/lbproxy/discovery"
)

// reportTrouble notes why it is unknown whether etcd holds the registration. It does until the lease can have run out.
func (r *Registrar) reportTrouble(why error) {
	message := "not registered, as far as is known; trying again"
	left := r.standsFor()
	if left > 0 {
		message = "etcd cannot be asked; the registration stands until its lease runs out; trying again"
		r.mu.Lock()
		r.status.Error = why.Error()
		r.announce()
		r.mu.Unlock()
	} else {
		r.setUnregistered(why)
	}
	if kind := message + errorKind(why); !r.logged[kind] {
		r.logged[kind] = true
		r.log.Warn(message, zap.Duration("left", left), zap.Error(why))
	}
}

// want is the instance to register, and the count of SetWeight that made it so.
func (r *Registrar) want() (discovery.Instance, int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	in := r.instance
	in.Weight = r.status.Weight
	return in, r.wanted
}

// setRegistered notes that etcd holds the registration with the given weight.
func (r *Registrar) setRegistered(kv *mvccpb.KeyValue, weight, wanted int) {
	first := r.heldUnder == 0
	r.heldUnder, r.held, r.takeBackAt = r.lease.id, kv.ModRevision, time.Time{}
	clear(r.logged)

	r.mu.Lock()
	before := r.status
	s := &r.status
	s.Registered, s.Error, s.Lease = true, "", leaseName(kv.Lease)
	s.CreateRevision, s.ModRevision = kv.CreateRevision, kv.ModRevision
	r.confirmed = wanted
	r.announce()
	r.mu.Unlock()

	fields := []zap.Field{
		zap.Int("weight", weight), zap.String("lease", leaseName(kv.Lease)),
		zap.Int64("create_revision", kv.CreateRevision), zap.Int64("revision", kv.ModRevision),
	}
	switch {
	case !before.Registered:
		r.log.Info("registered", fields...)
	case before.ModRevision != kv.ModRevision:
		r.log.Info("registration written", fields...)
	case before.Error != "":
		r.log.Info("the registration is confirmed again", fields...)
	}
	if first {
		close(r.registered)
	}
}

// setUnregistered notes why etcd is not known to hold the registration.
func (r *Registrar) setUnregistered(why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status.Registered, r.status.Error = false, why.Error()
	r.announce()
}

// errorKind is equal for errors with the same cause, whatever addresses and times they mention.
func errorKind(err error) string {
	var refused rpctypes.EtcdError
	if errors.As(err, &refused) {
		return refused.Error()
	}
	return status.Code(err).String()
}

// announce wakes whoever waits for a change. The caller holds mu.
func (r *Registrar) announce() {
	close(r.changed)
	r.changed = make(chan struct{})
}
