package relay

import (
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

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
