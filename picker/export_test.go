package picker

// PickOnly is what Pick costs without the books of a call.
func (g *Generation) PickOnly(version string) *Endpoint { return g.group(version).picker.pick() }
