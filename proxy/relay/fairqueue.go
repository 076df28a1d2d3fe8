package relay

// fairQueue is a FIFO per caller's connection, served round-robin, of exchanges that wait for the same thing: a window,
// or a stream of a backend. No caller starves another. The exchanges' streams on one side link it.
type fairQueue struct {
	side        side
	flows       map[*conn]*flow
	first, last *flow
	free        *flow // used ones, linked by after
	len         int
}

// flow is the exchanges of one owner in a queue.
type flow struct {
	owner         *conn
	first, last   *exchange
	before, after *flow
}

// add appends an exchange to its owner's flow. It must not be queued yet.
func (q *fairQueue) add(x *exchange, owner *conn) {
	f := q.flows[owner]
	if f == nil {
		f = q.newFlow(owner)
	}
	st := &x.streams[q.side]
	st.flow, st.before, st.after = f, f.last, nil
	if f.last != nil {
		f.last.streams[q.side].after = x
	} else {
		f.first = x
	}
	f.last = x
	q.len++
}

func (q *fairQueue) newFlow(owner *conn) *flow {
	f := q.free
	if f == nil {
		f = new(flow)
	} else {
		q.free = f.after
	}
	*f = flow{owner: owner}
	if q.flows == nil {
		q.flows = map[*conn]*flow{}
	}
	q.flows[owner] = f
	q.append(f)
	return f
}

// append makes a flow the last to be served.
func (q *fairQueue) append(f *flow) {
	f.before, f.after = q.last, nil
	if q.last != nil {
		q.last.after = f
	} else {
		q.first = f
	}
	q.last = f
}

func (q *fairQueue) unlink(f *flow) {
	if f.before != nil {
		f.before.after = f.after
	} else {
		q.first = f.after
	}
	if f.after != nil {
		f.after.before = f.before
	} else {
		q.last = f.before
	}
}

// remove takes an exchange out, if it is in the queue.
func (q *fairQueue) remove(x *exchange) {
	st := &x.streams[q.side]
	f := st.flow
	if f == nil {
		return
	}
	if st.before != nil {
		st.before.streams[q.side].after = st.after
	} else {
		f.first = st.after
	}
	if st.after != nil {
		st.after.streams[q.side].before = st.before
	} else {
		f.last = st.before
	}
	st.flow, st.before, st.after = nil, nil, nil
	q.len--
	if f.first == nil {
		q.unlink(f)
		delete(q.flows, f.owner)
		*f = flow{after: q.free}
		q.free = f
	}
}

// peek is the exchange whose turn it is; nil if there is none.
func (q *fairQueue) peek() *exchange {
	if q.first == nil {
		return nil
	}
	return q.first.first
}

// pop takes out the exchange whose turn it is. Its owner's next one waits for the turns of all others.
func (q *fairQueue) pop() *exchange {
	x := q.peek()
	if x == nil {
		return nil
	}
	f := q.first
	q.remove(x)
	if f.first != nil && f != q.last {
		q.unlink(f)
		q.append(f)
	}
	return x
}
