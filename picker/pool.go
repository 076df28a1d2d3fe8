package picker

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/metrics"
)

// A Pool is a service's endpoints. Discovery updates it, an engine connects its endpoints, and calls pick from
// its current generation, all at once.
type Pool struct {
	// Immutable:
	service string
	dial    Dial
	metrics *metrics.Endpoints
	log     *zap.Logger

	current atomic.Pointer[Generation]
	open    sync.WaitGroup // endpoints that have not closed

	failures atomic.Uint64 // of all endpoints, so far

	mu         sync.Mutex // protects, and the endpoints' state:
	policyName string
	policy     policy
	synced     bool // a snapshot has come
	known      bool // an instance has been registered at some time
	scheduled  bool // the next generation will be made in a moment
	revision   int64
	poisoned   []discovery.Poisoned
	order      []*Endpoint          // members, sorted by address
	instances  []discovery.Instance // of the last snapshot: what each member is registered as
	gone       []*Endpoint          // no members any more, though the current generation may hold them
	endpoints  map[string]*Endpoint // members and those still leaving, by address
}

// NewPool returns the pool of a service of which nothing is known yet. Policy must be valid.
func NewPool(service, policy string, dial Dial, m *metrics.Endpoints, log *zap.Logger) *Pool {
	p := &Pool{
		service: service, dial: dial, metrics: m,
		log:       log.With(zap.String("service", service)),
		endpoints: map[string]*Endpoint{},
	}
	p.current.Store(&Generation{changed: make(chan struct{})})
	p.SetPolicy(policy)
	return p
}

// Current is what can be picked from now. It takes no lock.
func (p *Pool) Current() *Generation { return p.current.Load() }

// Pick returns the endpoint for one call, which the caller must give back by End or Return, and the generation that it
// comes from. The endpoint is nil when there is none to pick.
func (p *Pool) Pick(info *Info) (*Endpoint, *Generation) {
	for {
		g := p.Current()
		if e := g.pick(info); e == nil || e.acquire() {
			return e, g
		}
		// It has closed, so another generation has replaced g: see generate.
	}
}

// SetPolicy changes how endpoints take turns. Name must be valid.
func (p *Pool) SetPolicy(name string) {
	policy, err := policyByName(name)
	if err != nil {
		panic(err) // configuration is validated before it comes here
	}
	p.change(func() bool {
		p.policyName, p.policy = name, policy
		return true
	})
}

// Update makes the pool's members those of the snapshot. Endpoints that stay keep their connection and calls, and so
// does one that comes back while some of its calls still run. It must not be called again before it returns.
func (p *Pool) Update(s discovery.Snapshot) {
	var joined []*Endpoint
	p.change(func() (picks bool) {
		picks = !p.synced || !slices.Equal(p.poisoned, s.Poisoned)
		p.synced, p.revision, p.poisoned = true, s.Revision, s.Poisoned
		p.known = p.known || len(s.Instances) > 0
		var changed bool
		joined, changed = p.reconcile(s.Instances)
		return picks || changed
	})
	for _, e := range joined {
		p.connect(e)
	}
}

// reconcile makes the pool's members those of a snapshot, and reports whether that changes what can be picked. It
// merges the last snapshot and this one, both sorted, and looks at no endpoint that stays as it is.
func (p *Pool) reconcile(instances []discovery.Instance) (joined []*Endpoint, changed bool) {
	before, was := p.order, p.instances
	var gone []*Endpoint
	p.order, p.instances = make([]*Endpoint, 0, len(instances)), instances
	counts := make(refsSlab, max(0, len(instances)-len(before)))
	for _, in := range instances {
		for len(was) > 0 && was[0].Addr < in.Addr {
			gone = append(gone, before[0])
			before, was = before[1:], was[1:]
		}
		if len(was) > 0 && was[0].Addr == in.Addr {
			if was[0] != in {
				changed = before[0].reregister(in) || changed
			}
			p.order = append(p.order, before[0])
			before, was = before[1:], was[1:]
			continue
		}
		e := p.revive(in)
		if e == nil {
			e = p.join(in, counts.take())
			joined = append(joined, e)
		}
		p.order = append(p.order, e)
		changed = true
	}
	gone = append(gone, before...)
	for _, e := range gone {
		e.leaving = true
	}
	p.gone = append(p.gone, gone...)
	return joined, changed || len(gone) > 0
}

// revive makes an endpoint a member again if it has not closed since it left; nil if there is none.
func (p *Pool) revive(in discovery.Instance) *Endpoint {
	e := p.endpoints[in.Addr]
	if e == nil {
		return nil
	}
	if !e.refs.add(member) {
		p.forget(e)
		return nil
	}
	e.leaving = false
	e.reregister(in)
	return e
}

func (p *Pool) join(in discovery.Instance, count *refs) *Endpoint {
	e := &Endpoint{
		pool: p, addr: in.Addr, refs: count,
		metrics:      p.metrics.Join(p.service, in.Addr),
		instance:     in,
		newest:       in.Registered,
		connectivity: connectivity{since: time.Now()},
	}
	e.refs.add(member)
	e.metrics.SetWeight(in.Weight)
	p.endpoints[in.Addr] = e
	p.open.Add(1)
	return e
}

func (p *Pool) connect(e *Endpoint) {
	conn := p.dial(e) // without the lock, as it may call SetState
	p.change(func() bool {
		e.conn = conn
		return e.eligibility() == eligible
	})
}

// forget removes an endpoint and its series. Another that has joined under its address stays.
func (p *Pool) forget(e *Endpoint) {
	if p.endpoints[e.addr] == e {
		delete(p.endpoints, e.addr)
		e.metrics.Forget()
	}
}

// close ends an endpoint that nobody can use any more. It is called at the end of a call, so it must not wait for mu.
func (p *Pool) close(e *Endpoint) {
	go func() { // ends when the connection has closed; Close waits for it
		defer p.open.Done()
		p.mu.Lock()
		p.forget(e)
		p.mu.Unlock()
		e.conn.Close()
	}()
}

// Close takes every endpoint out and waits until the last call of each has ended and its connection has
// closed. The pool must not be updated afterwards.
func (p *Pool) Close() {
	p.Update(discovery.Snapshot{Service: p.service})
	p.open.Wait()
}

// change applies a change to the state that mu protects. If apply says that picks depend on it, the next
// generation follows: at once, or in a large pool a little later, together with what else changes meanwhile.
func (p *Pool) change(apply func() bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !apply() || p.scheduled {
		return
	}
	if pause := generationPause * time.Duration(len(p.order)/generationStep); pause > 0 {
		p.scheduled = true
		time.AfterFunc(pause, p.catchUp)
		return
	}
	p.generate()
}

// A generation costs time in proportion to its endpoints. Ten thousand that become ready one after the other must
// not make ten thousand generations of ten thousand each.
const (
	generationStep  = 1000
	generationPause = time.Millisecond // for every generationStep endpoints
)

func (p *Pool) catchUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.scheduled = false
	p.generate()
}

// generate makes the next generation and wakes the calls that wait for it. Only now do endpoints that have left lose
// their membership and close with their last call, so whoever finds a picked endpoint closed knows that there is
// another generation.
func (p *Pool) generate() {
	old := p.current.Load()
	p.current.Store(p.generation(old))
	for _, e := range p.gone {
		e.release(member)
	}
	p.gone = nil
	close(old.changed)
}
