package picker

// PickOnly is what Pick costs without the books of a call.
func (g *Generation) PickOnly(version string) *Endpoint { return g.group(version).picker.pick() }

// Generate makes a generation at once, as a small pool does.
func (p *Pool) Generate() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.generate()
}
