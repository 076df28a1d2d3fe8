package picker

// PickOnly is what Pick costs without the books of a call.
func (p *Pool) PickOnly(info *Info) *Endpoint { return p.Current().pick(info) }

// Generate makes a generation at once, as a small pool does.
func (p *Pool) Generate() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.generate()
}
