package relay

import (
	"cmp"
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
		if cn.Len() == 0 && !cn.Leaving() && !cn.Dead() && cn.Silent() >= minIdle {
			idle = append(idle, cn)
		}
	}
	slices.SortFunc(idle, func(a, b *conn) int { return cmp.Compare(b.Silent(), a.Silent()) })
	idle = idle[:min(n, len(idle))]
	for _, cn := range idle {
		cn.drain()
	}
	return len(idle)
}
