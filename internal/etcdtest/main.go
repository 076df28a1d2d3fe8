package etcdtest

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lbproxy/lbproxy/internal/embedetcd"
)

// Main is goleak.VerifyTestMain with more patience: the connections between members of a stopped cluster end
// when their reads time out, after 5 s.
//
// It also runs as the etcd members that StartProcesses starts.
func Main(m *testing.M) {
	if spec := os.Getenv(asMember); spec != "" {
		fmt.Fprintln(os.Stderr, embedetcd.Run(spec))
		os.Exit(1)
	}
	code := m.Run()
	if code == 0 {
		leak := goleak.Find()
		for deadline := time.Now().Add(8 * time.Second); leak != nil && time.Now().Before(deadline); {
			leak = goleak.Find()
		}
		if leak != nil {
			fmt.Fprintln(os.Stderr, "goroutines left after the tests:", leak)
			code = 1
		}
	}
	os.Exit(code)
}
