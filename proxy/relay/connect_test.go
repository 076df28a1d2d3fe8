package relay

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/lbproxy/lbproxy/discovery"
)

// A server that greets and closes is connected to ever less often, and does not fill the log.
func TestConnectionsThatComeToNothing(t *testing.T) {
	for _, tt := range []struct {
		name      string
		workers   int
		end       backendEnd
		lastError string
	}{
		{"refused", 1, nil, "connection refused"},
		{"closed before it greets", 1, func(net.Conn) {}, "it closed before it greeted"},
		{"greets and closes", 1, func(c net.Conn) { greet(c, 0) }, ""},
		{"greets and closes, of several workers", 4, func(c net.Conn) { greet(c, 0) }, ""},
		{"greets and closes after a while", 1, func(c net.Conn) { greet(c, 0); time.Sleep(1500 * time.Millisecond) }, ""},
		{"greets late and closes", 1, func(c net.Conn) { greet(c, 1500*time.Millisecond) }, ""},
		{"greets and goes away", 1, func(c net.Conn) {
			greet(c, 0)
			http2.NewFramer(c, nil).WriteGoAway(0, http2.ErrCodeNo, []byte("go elsewhere"))
			time.Sleep(time.Millisecond) // or what is written to it may fail before that is read
		}, `GOAWAY NO_ERROR "go elsewhere"`},
		{"greets and breaks the protocol", 1, func(c net.Conn) {
			greet(c, 0)
			http2.NewFramer(c, nil).WriteData(1, false, nil)
			time.Sleep(time.Second)
		}, "DATA on a stream that was never opened"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inSimulatedTime(t, tt.workers, always(tt.end), func(x *connecting) {
				time.Sleep(time.Minute)
				before := x.dials()
				if most := 22 * tt.workers; before < 5 || before > most {
					t.Errorf("%d connections in the first minute, want at most %d", before, most)
				}
				time.Sleep(time.Hour)
				if n, most := x.dials()-before, 4000*tt.workers/5; n > most {
					t.Errorf("%d connections in an hour, want at most %d", n, most)
				}
				if n := x.logs.Len(); n > 200 {
					t.Errorf("%d lines in an hour", n)
				}
				if got := x.instance().LastError; !strings.Contains(got, tt.lastError) {
					t.Errorf("last error = %q, want %q", got, tt.lastError)
				}
			})
		})
	}
}

// Connections that last long are made anew at once, however many end.
func TestConnectionsThatLasted(t *testing.T) {
	lasts := func(c net.Conn) { greet(c, 0); time.Sleep(time.Minute) }
	inSimulatedTime(t, 1, always(lasts), func(x *connecting) {
		time.Sleep(10*time.Minute + time.Second)
		x.want("ready", "EOF")
		if n := x.dials(); n != 11 {
			t.Errorf("%d connections, want 11", n)
		}
	})
}

// A server that lets go of connections soon, as it is to do with those that get old, is not left alone for that.
func TestConnectionsThatAreLetGoSoon(t *testing.T) {
	letsGo := func(c net.Conn) {
		greet(c, 0)
		time.Sleep(50 * time.Millisecond)
		http2.NewFramer(c, nil).WriteGoAway(0, http2.ErrCodeNo, []byte("max_age"))
	}
	inSimulatedTime(t, 1, always(letsGo), func(x *connecting) {
		time.Sleep(time.Minute)
		if n := x.dials(); n < 500 || n > 750 {
			t.Errorf("%d connections in a minute, want ten a second", n)
		}
		if n := x.logs.Len(); n > 30 {
			t.Errorf("%d lines in a minute", n)
		}
	})
}

// A process that is killed may close what its kernel has accepted; what comes then is told as well.
func TestAnotherErrorIsTold(t *testing.T) {
	inSimulatedTime(t, 1, func(n int) backendEnd {
		switch n {
		case 0:
			return func(c net.Conn) { greet(c, 0); time.Sleep(time.Minute) }
		case 1:
			return func(net.Conn) {}
		}
		return nil
	}, func(x *connecting) {
		time.Sleep(10 * time.Minute)
		x.want("failed", "connection refused")
		var told []string
		for _, l := range x.logs.FilterMessageSnippet("endpoint").All() {
			told = append(told, fmt.Sprint(l.Message, ": ", l.ContextMap()["error"]))
		}
		if n := len(told); n != 4 || !strings.Contains(told[2], "closed before it greeted") || !strings.Contains(told[3], "refused") {
			t.Errorf("log: %q", told)
		}
	})
}

// A worker that pauses tries at once when another has got a connection.
func TestWorkersTellEachOther(t *testing.T) {
	var up atomic.Bool
	inSimulatedTime(t, 4, func(int) backendEnd {
		if !up.Load() {
			return nil
		}
		return stays(0)
	}, func(x *connecting) {
		time.Sleep(time.Minute)
		up.Store(true)
		for n := x.dials(); x.dials() == n; {
			time.Sleep(10 * time.Millisecond)
		}
		x.want("ready", "")
	})
}

// What endpoints cost that are down does not depend on how many they are.
func TestManyEndpointsAreDown(t *testing.T) {
	const endpoints = 5000
	inSimulatedTime(t, 2, always(nil), func(x *connecting) {
		var all []discovery.Instance
		for i := range endpoints {
			all = append(all, discovery.Instance{Addr: fmt.Sprintf("10.0.%d.%d:80", i>>8, i&0xff), Weight: 1})
		}
		x.snapshots <- discovery.Snapshot{Service: service, Instances: all}
		time.Sleep(time.Minute)
		before := x.dials()
		if before > 2*endpoints+60*50+100 {
			t.Errorf("%d attempts in the first minute", before)
		}
		time.Sleep(time.Minute)
		if n := x.dials() - before; n < 1950 || n > 2050 {
			t.Errorf("%d attempts in a minute, want ten in 300 ms", n)
		}
		if !slices.IsSortedFunc(x.dialed, time.Time.Compare) {
			t.Error("time goes back")
		}
	})
}
