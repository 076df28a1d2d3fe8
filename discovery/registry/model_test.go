package registry_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/discovery/dialect"
	"github.com/lbproxy/lbproxy/discovery/etcd"
	"github.com/lbproxy/lbproxy/discovery/registry"
	"github.com/lbproxy/lbproxy/internal/embedetcd"
	"github.com/lbproxy/lbproxy/internal/etcdtest"
)

// TestEtcdModel does random things to the registry and to the network before it, and wants each service's last
// snapshot to be what a linearizable read of its entries decodes to.
//
// LBPROXY_MODEL_ROUNDS asks for more rounds; LBPROXY_MODEL_SEED repeats those of a failure.
func TestEtcdModel(t *testing.T) {
	playModel(t, func(etcd string) string { return etcd })
}

// The same where etcd never tells its progress.
func TestEtcdModelBehindGRPCProxy(t *testing.T) {
	playModel(t, func(etcd string) string { return etcdtest.GRPCProxy(t, etcd) })
}

func playModel(t *testing.T, before func(etcd string) string) {
	t.Parallel()
	rounds, seed := envInt(t, "LBPROXY_MODEL_ROUNDS", 2), envInt(t, "LBPROXY_MODEL_SEED", time.Now().UnixNano())
	server := etcdtest.Start(t)
	w := &world{
		T: t, server: server, admin: etcdtest.Client(t, server.Endpoint()),
		forwarder: etcdtest.Forward(t, before(server.Endpoint())),
	}
	for i := range rounds {
		w.round(seed + i)
	}
}

func envInt(t *testing.T, name string, otherwise int64) int64 {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

const stepsPerRound = 150

// One name begins like another, to see that they are kept apart.
var modelServices = []string{"user", "user-admin", "u"}

// A world is the registry and the network that a round's random acts change.
type world struct {
	*testing.T
	server    *embedetcd.Server
	admin     *clientv3.Client
	forwarder *etcdtest.Forwarder

	// Of one round:
	rand      *rand.Rand
	root      string
	source    *source
	followers map[string]*follower
	leases    []clientv3.LeaseID
	story     []string
}

func (w *world) round(seed int64) {
	w.rand = rand.New(rand.NewPCG(uint64(seed), 0))
	w.root = fmt.Sprintf("/%d", seed)
	w.leases, w.story = nil, nil
	defer func() {
		if w.Failed() {
			w.Logf("repeat with LBPROXY_MODEL_ROUNDS=1 LBPROXY_MODEL_SEED=%d; the story:\n%s", seed, strings.Join(w.story, "\n"))
		}
	}()
	w.source = newSource(w, etcd.Config{
		Endpoints: []string{w.forwarder.Endpoint()}, Root: w.root, DialTimeout: 500 * time.Millisecond,
	}, registry.Limits{
		Progress: 100 * time.Millisecond, Answer: 300 * time.Millisecond, Audit: 200 * time.Millisecond,
		// A value that is kept depends on what was seen before, which a read cannot tell.
		KeepPoisoned: 1,
		Page:         3,
		Spread:       50 * time.Millisecond, ResumedAudit: 200 * time.Millisecond, MuteAsk: time.Second,
	})
	w.followers = map[string]*follower{}
	for _, service := range modelServices {
		w.followers[service] = w.source.follow(w, service)
	}
	for range stepsPerRound {
		w.act()
	}
	w.settle()
	for _, f := range w.followers {
		w.checkHistory(f)
		f.stop()
	}
	if got := w.source.value(w, "lbproxy_discovery_diverged_total"); got != 0 {
		for _, l := range w.source.logs.All() {
			w.tell("%s %s %v", l.Time.Format("05.000"), l.Message, l.ContextMap())
		}
		w.Errorf("%v audits found the watched state different", got)
	}
}

// act does one thing, the frequent ones of a registry's life frequently.
func (w *world) act() {
	switch n := w.rand.IntN(100); {
	case n < 40:
		w.commit(w.change())
	case n < 50:
		w.commit(w.change(), w.change(), w.change(), w.change())
	case n < 55:
		w.grant()
	case n < 62:
		w.revoke()
	case n < 70:
		w.compact()
	case n < 76:
		w.tell("cut")
		w.forwarder.Cut()
	case n < 80:
		w.tell("stall")
		w.forwarder.Stall()
	case n < 92:
		w.tell("resume")
		w.forwarder.Resume()
	case n < 94:
		w.clear()
	case n < 96:
		service := modelServices[w.rand.IntN(len(modelServices))]
		w.tell("follow %s anew", service)
		w.followers[service].stop()
		w.followers[service] = w.source.follow(w, service)
	case n < 99:
		w.settle()
	default:
		w.restart()
	}
}

func (w *world) tell(format string, args ...any) {
	w.story = append(w.story, fmt.Sprintf(format, args...))
}

// change is a put, good or poisoned, or a delete.
func (w *world) change() clientv3.Op {
	addr := fmt.Sprintf("10.0.0.%d:1001", w.rand.IntN(6))
	version := []string{"", "1/", "2/"}[w.rand.IntN(3)]
	key := w.root + "/" + modelServices[w.rand.IntN(len(modelServices))] + "/" + version + addr
	var opts []clientv3.OpOption
	if len(w.leases) > 0 && w.rand.IntN(2) == 0 {
		opts = append(opts, clientv3.WithLease(w.leases[w.rand.IntN(len(w.leases))]))
	}
	switch w.rand.IntN(8) {
	case 0, 1:
		return clientv3.OpDelete(key)
	case 2:
		return clientv3.OpPut(key, `{"weight":-1}`, opts...)
	case 3:
		return clientv3.OpPut(key+"/x", `{}`, opts...)
	default:
		return clientv3.OpPut(key, fmt.Sprintf(`{"weight":%d}`, w.rand.IntN(5)), opts...)
	}
}

func (w *world) commit(ops ...clientv3.Op) {
	seen := map[string]bool{}
	var distinct []clientv3.Op // as etcd wants it of a transaction
	for _, op := range ops {
		if key := string(op.KeyBytes()); !seen[key] {
			seen[key] = true
			distinct = append(distinct, op)
		}
	}
	for _, op := range distinct {
		w.tell("put=%t %s %s", op.IsPut(), op.KeyBytes(), op.ValueBytes())
	}
	_, err := w.admin.Txn(w.Context()).Then(distinct...).Commit()
	if !errors.Is(err, rpctypes.ErrLeaseNotFound) { // it may have expired
		w.must(err)
	}
}

// grant grants leases that last, and some that soon expire.
func (w *world) grant() {
	ttl := int64(60)
	if w.rand.IntN(2) == 0 {
		ttl = 1
	}
	w.tell("grant %d s", ttl)
	lease, err := w.admin.Grant(w.Context(), ttl)
	w.must(err)
	w.leases = append(w.leases, lease.ID)
}

func (w *world) revoke() {
	if len(w.leases) == 0 {
		return
	}
	i := w.rand.IntN(len(w.leases))
	w.tell("revoke lease %d", i)
	_, err := w.admin.Revoke(w.Context(), w.leases[i])
	if !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		w.must(err)
	}
	w.leases = append(w.leases[:i], w.leases[i+1:]...)
}

func (w *world) compact() {
	now, err := w.admin.Get(w.Context(), "/")
	w.must(err)
	revision := now.Header.Revision - int64(w.rand.IntN(3))
	w.tell("compact %d", revision)
	_, err = w.admin.Compact(w.Context(), revision)
	if !errors.Is(err, rpctypes.ErrCompacted) {
		w.must(err)
	}
}

func (w *world) clear() {
	service := modelServices[w.rand.IntN(len(modelServices))]
	w.tell("delete all of %s", service)
	_, err := w.admin.Delete(w.Context(), w.root+"/"+service+"/", clientv3.WithPrefix())
	w.must(err)
}

func (w *world) restart() {
	w.tell("restart etcd")
	w.server.Stop()
	w.must(w.server.Restart())
	// The admin's requests are not repeated when the connection they were sent on breaks.
	_, err := w.admin.Get(w.Context(), "/")
	w.must(err)
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.tell("error: %v", err)
		w.Fatal(err)
	}
}

// settle lets the network be and waits until the sources know what is registered.
func (w *world) settle() {
	w.tell("settle")
	w.forwarder.Resume()
	for service, f := range w.followers {
		prefix := w.root + "/" + service + "/"
		timeout := time.After(patience)
		for {
			all, changed := f.all()
			read, err := w.admin.Get(w.Context(), prefix, clientv3.WithPrefix())
			w.must(err)
			want := decodeAll(dialect.LBProxy{Root: w.root}, service, read.Kvs)
			diff := "nothing was published"
			if n := len(all); n > 0 {
				diff = cmp.Diff(want, all[n-1].Instances, cmpopts.IgnoreFields(discovery.Instance{}, "Registered"))
			}
			if diff == "" {
				break
			}
			select {
			case <-changed:
			case <-time.After(100 * time.Millisecond): // what is registered may have changed, too: leases expire
			case <-timeout:
				for _, l := range w.source.logs.All() {
					w.tell("%s %v", l.Message, l.ContextMap())
				}
				w.Fatalf("%s does not become what a read at revision %d says (-read +snapshot):\n%s",
					service, read.Header.Revision, diff)
			}
		}
	}
}

// decodeAll is what a source that has just started makes of a service's entries.
func decodeAll(form dialect.Dialect, service string, kvs []*mvccpb.KeyValue) []discovery.Instance {
	all := []discovery.Instance{}
	for _, kv := range kvs {
		in, _, err := form.Decode(service, string(kv.Key), kv.Value)
		if err != nil {
			continue
		}
		in.CreateRevision, in.ModRevision = kv.CreateRevision, kv.ModRevision
		all = append(all, in)
	}
	return discovery.SortUnique(all)
}

func (w *world) checkHistory(f *follower) {
	all, _ := f.all()
	for i := 1; i < len(all); i++ {
		if all[i].Revision < all[i-1].Revision {
			w.Errorf("%s went from revision %d back to %d", f.service, all[i-1].Revision, all[i].Revision)
		}
		if cmp.Equal(all[i].Instances, all[i-1].Instances) && cmp.Equal(all[i].Poisoned, all[i-1].Poisoned) {
			w.Errorf("%s: the snapshot of revision %d was published although nothing had changed", f.service, all[i].Revision)
		}
		w.checkRegistrations(all[i-1].Instances, all[i].Instances)
	}
}

// checkRegistrations: the newer instances say of what was there before whether it is another registration.
func (w *world) checkRegistrations(older, newer []discovery.Instance) {
	before := map[string]discovery.Instance{}
	for _, in := range older {
		before[in.Key] = in
	}
	for _, in := range newer {
		if in.Registered < in.CreateRevision || in.Registered > in.ModRevision {
			w.Errorf("%+v is not registered between its creation and its last change", in)
		}
		if old := before[in.Key]; old.CreateRevision == in.CreateRevision && old.Registered > in.Registered {
			w.Errorf("%+v became the older registration %+v", old, in)
		}
	}
}
