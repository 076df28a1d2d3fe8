package relay

import (
	"bytes"

	"golang.org/x/net/http2"
)

// echo has a backend answer every call by itself: headers at the request's, and back what it sends.
func (p *peer) echo() {
	type answer struct {
		id           uint32
		headers, end bool
		n            int
	}
	var todo []answer
	running := false
	p.onFrame = func(id uint32, headers, end bool, n int) {
		todo = append(todo, answer{id, headers, end, n})
		if running {
			return
		}
		running = true
		for len(todo) > 0 {
			a := todo[0]
			todo = todo[1:]
			st := p.streams[a.id]
			if st.reset || st.sent {
				continue
			}
			if a.headers && !a.end {
				p.fr.WriteHeaders(http2.HeadersFrameParam{
					StreamID: a.id, EndHeaders: true,
					BlockFragment: p.block([]string{":status", "200", "content-type", "application/grpc"}),
				})
			}
			if n := min(int64(a.n), st.credit, p.credit); n > 0 {
				p.fr.WriteData(a.id, false, make([]byte, n))
				st.credit -= n
				p.credit -= n
			}
			if a.n > 0 { // it takes what it was sent
				p.fr.WriteWindowUpdate(0, uint32(a.n))
				p.window += int64(a.n)
				if !a.end {
					p.fr.WriteWindowUpdate(a.id, uint32(a.n))
					st.window += int64(a.n)
				}
			}
			if a.end {
				st.sent = true
				fields := []string{"grpc-status", "0"}
				if a.headers {
					fields = []string{":status", "200", "grpc-status", "0"}
				}
				p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: a.id, EndHeaders: true, EndStream: true, BlockFragment: p.block(fields)})
			}
			b := bytes.Clone(p.out.Bytes())
			p.out.Reset()
			p.raw(b)
		}
		running = false
	}
}
