package relay

import (
	"slices"
	"time"
)

// minIdle is how long a caller must have been idle to be asked to leave: those who are would be back at once.
const minIdle = 5 * time.Second

// drainIdle asks up to n callers to leave, those first that have had no call and said nothing for longest, and be it
// what they speak. They are asked as gently as those that have reached their age. It returns how many there are.
func (c *core) drainIdle(n int) int {
	var idle []*conn
	for cn := range c.callers() {
		if len(cn.streams) == 0 && !cn.leaving && !cn.dead && c.now.Sub(cn.heard) >= minIdle {
			idle = append(idle, cn)
		}
	}
	slices.SortFunc(idle, func(a, b *conn) int { return a.heard.Compare(b.heard) })
	idle = idle[:min(n, len(idle))]
	for _, cn := range idle {
		c.current = cn
		cn.drain()
	}
	return len(idle)
}
