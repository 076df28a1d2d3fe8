package relay

// line is streams that wait for the same thing: a window, or a stream of a backend. Those of each owner are
// served in turn, so that one with many holds up no others. The streams' halves on one side link it.
type line struct {
	side        side
	turns       map[*conn]*turn
	first, last *turn
	free        *turn // used ones, linked by after
	len         int
}

// turn is the streams of one owner in a line.
type turn struct {
	owner         *conn
	first, last   *stream
	before, after *turn
}

// add puts a stream at the end of its owner's, where it must not be yet.
func (l *line) add(st *stream, owner *conn) {
	t := l.turns[owner]
	if t == nil {
		t = l.newTurn(owner)
	}
	h := &st.half[l.side]
	h.turn, h.before, h.after = t, t.last, nil
	if t.last != nil {
		t.last.half[l.side].after = st
	} else {
		t.first = st
	}
	t.last = st
	l.len++
}

func (l *line) newTurn(owner *conn) *turn {
	t := l.free
	if t == nil {
		t = new(turn)
	} else {
		l.free = t.after
	}
	*t = turn{owner: owner}
	if l.turns == nil {
		l.turns = map[*conn]*turn{}
	}
	l.turns[owner] = t
	l.append(t)
	return t
}

// append gives a turn's owner the last turn.
func (l *line) append(t *turn) {
	t.before, t.after = l.last, nil
	if l.last != nil {
		l.last.after = t
	} else {
		l.first = t
	}
	l.last = t
}

func (l *line) unlink(t *turn) {
	if t.before != nil {
		t.before.after = t.after
	} else {
		l.first = t.after
	}
	if t.after != nil {
		t.after.before = t.before
	} else {
		l.last = t.before
	}
}

// remove takes a stream out, if it is in the line.
func (l *line) remove(st *stream) {
	h := &st.half[l.side]
	t := h.turn
	if t == nil {
		return
	}
	if h.before != nil {
		h.before.half[l.side].after = h.after
	} else {
		t.first = h.after
	}
	if h.after != nil {
		h.after.half[l.side].before = h.before
	} else {
		t.last = h.before
	}
	h.turn, h.before, h.after = nil, nil, nil
	l.len--
	if t.first == nil {
		l.unlink(t)
		delete(l.turns, t.owner)
		*t = turn{after: l.free}
		l.free = t
	}
}

// peek is the stream whose turn it is; nil if there is none.
func (l *line) peek() *stream {
	if l.first == nil {
		return nil
	}
	return l.first.first
}

// pop takes out the stream whose turn it is. Its owner's next one waits for the turns of all others.
func (l *line) pop() *stream {
	st := l.peek()
	if st == nil {
		return nil
	}
	t := l.first
	l.remove(st)
	if t.first != nil && t != l.last {
		l.unlink(t)
		l.append(t)
	}
	return st
}
