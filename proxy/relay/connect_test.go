package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/net/http2"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/proxy/transport"
	"github.com/lbproxy/lbproxy/traffic"
)

// connected is an engine in simulated time, whose connections to backends are pipes to what the test makes of them.
type connecting struct {
	t         *testing.T
	engine    *Engine
	services  *proxy.Directory
	snapshots chan discovery.Snapshot
	logs      *observer.ObservedLogs
	backends  sync.WaitGroup
	synsLost  atomic.Bool // until the kernel has sent the third

	mu     sync.Mutex
	dialed []time.Time
	open   int // connections
}

// backendEnd is what a backend does with a connection. What it returns from is closed.
type backendEnd func(c net.Conn)

// inSimulatedTime has workers connect to one instance, whose n-th connection is end(n)'s; nil refuses it.
func inSimulatedTime(t *testing.T, workers int, end func(n int) backendEnd, do func(x *connecting)) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.InfoLevel)
		x := &connecting{t: t, snapshots: make(chan discovery.Snapshot), logs: logs}
		cfg := testConfig
		cfg.Workers = workers
		reg := prometheus.NewRegistry()
		x.services = proxy.NewDirectory(proxy.DirectoryConfig{
			Source: published(x.snapshots), IdleRelease: time.Hour, Log: zap.New(core),
			Calls: metrics.NewCalls(reg), Endpoints: metrics.NewEndpoints(reg),
		})
		dialer := transport.NewDialer()
		dialer.Connect = func(ctx context.Context, _ string) (net.Conn, error) { return x.connect(ctx, end) }
		m := metrics.NewRelay(reg, cfg.Workers, cfg.Memory)
		x.engine = newEngine(cfg, proxy.NewRouter(x.services), dialer, plentyOfDescriptors, m, zap.New(core), noPoller)
		x.services.Start(x.engine, rulesOf(traffic.Service{Policy: picker.RoundRobin, WaitTimeout: time.Second}))
		x.register(1, 1)
		do(x)
		x.services.Close()
		x.engine.Shutdown(t.Context())
		x.backends.Wait()
	})
}

// published is a source that publishes what a test sends.
type published chan discovery.Snapshot

func (p published) Run(ctx context.Context, _ string, publish func(discovery.Snapshot)) error {
	for {
		select {
		case s := <-p:
			publish(s)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (x *connecting) register(created, modified int64) {
	x.snapshots <- discovery.Snapshot{Service: service, Instances: []discovery.Instance{
		{Addr: "10.0.0.1:80", Weight: 1, Key: "/hello/10.0.0.1:80", CreateRevision: created, ModRevision: modified, Registered: created},
	}}
	synctest.Wait()
}

func (x *connecting) connect(ctx context.Context, end func(n int) backendEnd) (net.Conn, error) {
	x.mu.Lock()
	x.dialed = append(x.dialed, time.Now())
	serve := end(len(x.dialed) - 1)
	x.mu.Unlock()
	if serve == nil {
		return nil, errors.New("connection refused")
	}
	if x.synsLost.Load() {
		select {
		case <-time.After(3200 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	ours, theirs := net.Pipe()
	x.mu.Lock()
	x.open++
	x.mu.Unlock()
	x.backends.Go(func() {
		serve(theirs)
		theirs.Close()
		x.mu.Lock()
		defer x.mu.Unlock()
		x.open--
	})
	return ours, ctx.Err()
}

func (x *connecting) dials() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.dialed)
}

// opened is how many connections are open.
func (x *connecting) opened() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.open
}

func (x *connecting) instance() picker.EndpointStatus {
	s, _ := x.services.ServiceStatus(service)
	return s.Instances[0]
}

// want checks how the instance stands, and what of its last error.
func (x *connecting) want(state, lastError string) {
	x.t.Helper()
	synctest.Wait()
	if got := x.instance(); got.State != state || !strings.Contains(got.LastError, lastError) {
		x.t.Errorf("the instance is %s, with the error %q; want %s, %q", got.State, got.LastError, state, lastError)
	}
}

// greet reads what comes, and greets after some time.
func greet(c net.Conn, after time.Duration) {
	go io.Copy(io.Discard, c) // ends with the connection
	time.Sleep(after)
	http2.NewFramer(c, nil).WriteSettings()
}

// stays greets after some time and stays.
func stays(after time.Duration) backendEnd {
	return func(c net.Conn) {
		time.Sleep(after)
		go http2.NewFramer(c, nil).WriteSettings() // ends with the connection
		io.Copy(io.Discard, c)
	}
}

func always(end backendEnd) func(int) backendEnd { return func(int) backendEnd { return end } }

// slow is after what time an attempt is told of that goes on.
const slow = 500 * time.Millisecond

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

func TestSlowBackends(t *testing.T) {
	for _, tt := range []struct {
		greets time.Duration
		dials  int
		within time.Duration
	}{
		{1300 * time.Millisecond, 1, 1300 * time.Millisecond},
		{4900 * time.Millisecond, 1, 4900 * time.Millisecond},
		{8 * time.Second, 2, 14 * time.Second},
		{19 * time.Second, 3, 36 * time.Second},
	} {
		t.Run(tt.greets.String(), func(t *testing.T) {
			inSimulatedTime(t, 1, always(stays(tt.greets)), func(x *connecting) {
				x.want("connecting", "")
				time.Sleep(slow)
				x.want("failed", "it has not greeted (SETTINGS) within 500ms; it has up to 5s")
				time.Sleep(tt.within - slow)
				x.want("ready", "it has not greeted")
				time.Sleep(time.Hour)
				if n := x.dials(); n != tt.dials {
					t.Errorf("%d connections, want %d", n, tt.dials)
				}
				x.want("ready", "it has not greeted")
			})
		})
	}
	t.Run("never", func(t *testing.T) {
		inSimulatedTime(t, 1, always(stays(time.Hour)), func(x *connecting) {
			time.Sleep(time.Minute)
			x.want("failed", "it has not greeted (SETTINGS) within 20s")
			if n := x.dials(); n > 6 {
				t.Errorf("%d connections in a minute", n)
			}
			time.Sleep(time.Hour)
		})
	})
}

// A SYN that is lost is sent again by the kernel after a second, and after three.
func TestLostSYNs(t *testing.T) {
	inSimulatedTime(t, 1, always(func(c net.Conn) { greet(c, 0); time.Sleep(10 * time.Second) }), func(x *connecting) {
		x.synsLost.Store(true) // for the second connection
		time.Sleep(10 * time.Second)
		synctest.Wait()
		time.Sleep(slow)
		x.want("failed", "TCP has not connected within 500ms; it has up to 5s")
		time.Sleep(3200*time.Millisecond - slow)
		x.want("ready", "")
		if n := x.dials(); n != 2 {
			t.Errorf("%d connections, want 2", n)
		}
	})
}

// What answers in place of a gRPC server is called what it is.
func TestWhatAnswers(t *testing.T) {
	says := func(first string, stay time.Duration) backendEnd {
		return func(c net.Conn) {
			go io.Copy(io.Discard, c)
			io.WriteString(c, first)
			time.Sleep(stay)
		}
	}
	for _, tt := range []struct {
		name string
		end  backendEnd
		want string
	}{
		{"a TLS alert, and the end", says("\x15\x03\x01\x00\x02\x02\x46", time.Millisecond), "answers in TLS"},
		{"a TLS alert", says("\x15\x03\x03\x00\x02\x02\x46", time.Hour), "answers in TLS"},
		{"a TLS handshake", says("\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03", time.Hour), "answers in TLS"},
		{"HTTP/1.1", says("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", time.Millisecond), `answers in HTTP/1, "HTTP/1.1 400 Bad Request"`},
		{"HTTP/1.0", says("HTTP/1.0 400 Bad Request\r\n\r\n", time.Hour), `answers in HTTP/1, "HTTP/1.0 400 Bad Request"`},
		{"SMTP", says("220 mail.example ESMTP\r\n", time.Hour), `answers with "220 mail.example ESMTP\r\n"`},
		{"half a frame", says("\x00\x00", time.Millisecond), "closed before it greeted (SETTINGS); the process"},
		{"nothing", says("", 0), "closed before it greeted (SETTINGS); the process"},
		{"another frame", says("\x00\x00\x00\x00\x00\x00\x00\x00\x01", time.Millisecond), "the first frame is not SETTINGS"},
		{"a frame that is too long", says("\x00\xba\x06\x04\x00\x00\x00\x00\x00", time.Hour), "FRAME_SIZE_ERROR: a frame is longer than was allowed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inSimulatedTime(t, 1, always(tt.end), func(x *connecting) {
				time.Sleep(slow / 2)
				x.want("failed", tt.want)
				if n := x.logs.FilterMessage("endpoint cannot be reached").Len(); n != 1 {
					t.Errorf("it is logged %d times, want once", n)
				}
				time.Sleep(2 * time.Hour)
			})
		})
	}
}

func TestHowConnectionsThatAreNotGreetedAreCounted(t *testing.T) {
	for cause, said := range map[string]string{"peer": "", "protocol": "220 mail.example ESMTP\r\n"} {
		w := newWorld(t, "a:1")
		b := w.dialled("a:1")
		b.out.WriteString(said)
		b.send()
		b.c.Close(io.EOF)
		w.step()
		if n := w.ended(backend, cause); n != 1 {
			t.Errorf("a connection on which %q comes is not counted as %s", said, cause)
		}
		w.finish()
	}
	w := newWorld(t, "a:1")
	w.dialled("a:1").c.Close(tooLate(time.Second))
	w.step()
	if n := w.ended(backend, "handshake_timeout"); n != 1 {
		t.Error("a connection that is late is not counted as such")
	}
	w.finish()
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

func TestRenewal(t *testing.T) {
	t.Run("of a registration", func(t *testing.T) {
		inSimulatedTime(t, 2, always(stays(300*time.Millisecond)), func(x *connecting) {
			time.Sleep(time.Second)
			x.want("ready", "")
			x.register(1, 2) // another weight, say
			time.Sleep(time.Second)
			if n := x.dials(); n != 2 {
				t.Errorf("%d connections after a change, want 2", n)
			}
			x.register(3, 3)
			x.want("ready", "")
			if n := x.dials(); n != 4 || x.opened() != 4 {
				t.Errorf("%d connections for a new registration, of which %d are open, want 4", n, x.opened())
			}
			time.Sleep(2 * time.Second)
			x.want("ready", "")
			if x.dials() != 4 || x.opened() != 2 {
				t.Errorf("%d connections for a new registration, of which %d are open, want 4, 2", x.dials(), x.opened())
			}
			if n := x.logs.FilterMessageSnippet("lost").Len(); n != 0 {
				t.Errorf("connections are lost: %v", x.logs.All())
			}
		})
	})
	t.Run("that fails for some time", func(t *testing.T) {
		inSimulatedTime(t, 1, func(n int) backendEnd {
			if n == 0 || n == 4 {
				return stays(0)
			}
			return nil
		}, func(x *connecting) {
			x.register(3, 3)
			x.want("ready", "connection refused")
			time.Sleep(time.Minute)
			x.want("ready", "connection refused")
			if x.dials() != 5 || x.opened() != 1 {
				t.Errorf("%d connections, of which %d are open, want 5, 1", x.dials(), x.opened())
			}
		})
	})
	t.Run("while the connection is lost", func(t *testing.T) {
		inSimulatedTime(t, 1, func(n int) backendEnd {
			switch n {
			case 0:
				return func(c net.Conn) { greet(c, 0); time.Sleep(10 * time.Second) }
			case 1:
				return stays(time.Hour)
			}
			return stays(0)
		}, func(x *connecting) {
			time.Sleep(9 * time.Second)
			x.register(3, 3)
			x.want("ready", "")
			time.Sleep(1100 * time.Millisecond)
			x.want("ready", "EOF")
			if x.dials() != 3 {
				t.Errorf("%d connections, want 3", x.dials())
			}
			time.Sleep(time.Hour)
			if x.opened() != 1 {
				t.Errorf("%d connections are open, want 1", x.opened())
			}
		})
	})
	t.Run("of one that cannot be reached, at once", func(t *testing.T) {
		inSimulatedTime(t, 1, func(n int) backendEnd {
			if n > 20 {
				return stays(0)
			}
			return nil
		}, func(x *connecting) {
			for x.dials() <= 20 {
				time.Sleep(time.Second)
			}
			x.register(3, 3)
			x.want("ready", "")
		})
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
