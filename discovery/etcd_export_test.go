package discovery

import (
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// EtcdLimits are what a test changes of a source's limits; zero leaves one as it is.
type EtcdLimits struct {
	Progress, Answer, MuteAsk, Audit, ResumedAudit, Spread, KeepPoisoned time.Duration
	Page                                                                 int64
}

// Limit changes the limits. It comes before the first Run.
func (e *Etcd) Limit(l EtcdLimits) {
	for _, d := range []struct {
		to   *time.Duration
		from time.Duration
	}{
		{&e.limits.progress, l.Progress},
		{&e.limits.answer, l.Answer},
		{&e.limits.muteAsk, l.MuteAsk},
		{&e.limits.audit, l.Audit},
		{&e.limits.resumedAudit, l.ResumedAudit},
		{&e.limits.spread, l.Spread},
		{&e.limits.keepPoisoned, l.KeepPoisoned},
	} {
		if d.from != 0 {
			*d.to = d.from
		}
	}
	if l.Page != 0 {
		e.limits.page = l.Page
	}
}

// DecodeAll is what a source that has just started makes of a service's entries.
func DecodeAll(service, prefix string, kvs []*mvccpb.KeyValue) []Instance {
	all := []Instance{}
	for _, kv := range kvs {
		in, _, err := decodeInstance(service, prefix, string(kv.Key), kv.Value)
		if err != nil {
			continue
		}
		in.CreateRevision, in.ModRevision = kv.CreateRevision, kv.ModRevision
		all = append(all, in)
	}
	return SortUnique(all)
}
