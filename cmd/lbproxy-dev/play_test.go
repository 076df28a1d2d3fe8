package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
)

// runOnce runs the playground with --once and more flags, and fails if it leaves files behind.
func runOnce(t *testing.T, flags ...string) (code int, stdout, stderr string) {
	t.Helper()
	defer checkNoFilesLeft(t)()
	var out, errs bytes.Buffer
	code = run(t.Context(), append([]string{"--once"}, flags...), &out, &errs)
	return code, out.String(), errs.String()
}

func checkNoFilesLeft(t *testing.T) func() {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	return func() {
		t.Helper()
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("files are left behind: %v (error %v)", left, err)
		}
	}
}

var tableRow = regexp.MustCompile(`^127\.0\.0\.1:\d+ +(\d+) +(\d+) +(\d+\.\d%) +(\d+\.\d%) +(\w+)$`)

func TestOnceShowsATable(t *testing.T) {
	code, stdout, stderr := runOnce(t)
	if code != 0 || stderr != "" {
		t.Errorf("exit code %d, stderr %q; want 0 and nothing", code, stderr)
	}
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	if len(lines) != 8 {
		t.Fatalf("got\n%swant a header, five rows, a blank line and the result", stdout)
	}
	if got := strings.Join(strings.Fields(lines[0]), " "); got != "ADDRESS WEIGHT CALLS SHARE EXPECTED STATE" {
		t.Errorf("header is %q", lines[0])
	}
	for i, want := range []string{"1 7.1% ready", "1 7.1% ready", "1 7.1% ready", "1 7.1% ready", "10 71.4% ready"} {
		m := tableRow.FindStringSubmatch(lines[1+i])
		if m == nil || m[1]+" "+m[4]+" "+m[5] != want {
			t.Errorf("row %d is %q, want one of %s", i, lines[1+i], want)
		}
	}
	if want := "1000 calls by weighted_round_robin, 0 failed. The shares match the weights."; lines[7] != want {
		t.Errorf("the result is %q, want %q", lines[7], want)
	}
}

func TestOnceByEachPolicy(t *testing.T) {
	for _, test := range []struct {
		policy   string
		weights  string
		expected []float64
	}{
		{"weighted_round_robin", "2,3,0", []float64{0.4, 0.6, 0}},
		{"round_robin", "2,3,0", []float64{0.5, 0.5, 0}},
		{"random", "2,3,0", []float64{0.4, 0.6, 0}},
		{"least_request", "2,3,0", []float64{0.4, 0.6, 0}},
	} {
		t.Run(test.policy, func(t *testing.T) {
			code, stdout, stderr := runOnce(t, "--policy", test.policy, "--weights", test.weights, "-o", "json")
			if code != 0 || stderr != "" {
				t.Errorf("exit code %d, stderr %q; want 0 and nothing", code, stderr)
			}
			var got onceReport
			in := json.NewDecoder(strings.NewReader(stdout))
			in.DisallowUnknownFields()
			if err := in.Decode(&got); err != nil {
				t.Fatalf("%v in\n%s", err, stdout)
			}
			if got.Policy != test.policy || got.Calls != 1000 || got.Failed != 0 || !got.Match || got.Mismatches == nil || len(got.Instances) != 3 {
				t.Fatalf("got\n%s", stdout)
			}
			var calls uint64
			for i, r := range got.Instances {
				calls += r.Calls
				if r.ExpectedShare != test.expected[i] || r.Share != float64(r.Calls)/1000 {
					t.Errorf("instance %d is %+v, want an expected share of %v", i, r, test.expected[i])
				}
			}
			if calls != 1000 {
				t.Errorf("%d calls arrived, want 1000", calls)
			}
		})
	}
}

func TestOnceFailsWithoutAMatch(t *testing.T) {
	code, stdout, stderr := runOnce(t, "--weights", "0,0")
	if code != 1 || !strings.Contains(stdout, "1000 calls by weighted_round_robin, 1000 failed.\n") {
		t.Errorf("exit code %d and\n%swant 1 and 1000 failed calls", code, stdout)
	}
	for _, want := range []string{
		"lbproxy-dev: the shares do not match the weights:\n  no server got a call\n  1000 calls failed, the last with ",
		"all its instances (2) are drained",
	} {
		if !strings.Contains(stderr, want) {
			t.Errorf("stderr is %q, want it to hold %q", stderr, want)
		}
	}
}

func TestLiveUntilStopped(t *testing.T) {
	defer checkNoFilesLeft(t)()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	read, write := io.Pipe()
	var stderr bytes.Buffer
	code := make(chan int, 1)
	go func() { // ends by cancel
		code <- run(ctx, anywhere("--rate", "400"), write, &stderr)
		write.Close()
	}()
	var text strings.Builder
	lines := bufio.NewScanner(read)
	for rows := 0; rows < 5 && lines.Scan(); {
		text.WriteString(lines.Text() + "\n")
		if m := tableRow.FindStringSubmatch(lines.Text()); m != nil && m[2] != "0" {
			rows++
		}
	}
	cancel()
	for lines.Scan() {
		text.WriteString(lines.Text() + "\n")
	}
	if got := <-code; got != 0 || stderr.Len() > 0 {
		t.Errorf("exit code %d, stderr %q; want 0 and nothing", got, &stderr)
	}
	for _, want := range []string{
		`grpcurl -plaintext -authority hello -d '\{"name":"you"\}' 127\.0\.0\.1:\d+ helloworld\.Greeter/SayHello\n`,
		`^Starting etcd \.\.\.\nStarting 5 servers .*\nStarting lbproxy, `,
		`lbproxy services hello --watch --admin 127\.0\.0\.1:\d+\n`,
		`curl http://127\.0\.0\.1:\d+/services\n`,
		`lbproxy register --name mine --addr 127\.0\.0\.1:50051 --etcd 127\.0\.0\.1:\d+\n  grpcurl -plaintext -authority mine 127\.0\.0\.1:\d+ list\n`,
		`etcdctl --endpoints 127\.0\.0\.1:\d+ get --prefix /hello/\n`,
		`etcdctl --endpoints 127\.0\.0\.1:\d+ put /hello/1\.0\.0/127\.0\.0\.1:\d+ '\{"weight":5\}'\n`,
		`\n\nSent [1-9]\d* calls in \d+s, 0 failed\. Everything has stopped\.\n$`,
	} {
		if !regexp.MustCompile(want).MatchString(text.String()) {
			t.Errorf("nothing like %s in\n%s", want, &text)
		}
	}
}

// When the reader of its output goes away, the playground ends as at Ctrl-C, except for the exit code.
func TestLiveUntilNobodyReads(t *testing.T) {
	defer checkNoFilesLeft(t)()
	read, write := io.Pipe()
	read.Close()
	var stderr bytes.Buffer
	code := run(t.Context(), anywhere(), write, &stderr)
	if code != 1 || !strings.Contains(stderr.String(), io.ErrClosedPipe.Error()) {
		t.Errorf("exit code %d, stderr %q; want 1 with the error", code, &stderr)
	}
}
