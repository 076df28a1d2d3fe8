package etcdtest

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/lbproxy/lbproxy/internal/embedetcd"
)

// asMember in the environment turns the test binary into an etcd member, see Main.
const asMember = "LBPROXY_TEST_AS_ETCD"

// Processes is an etcd whose members are processes of their own, so that they can be frozen.
type Processes struct {
	t         testing.TB
	endpoints []string
	members   []*exec.Cmd
	admins    []*clientv3.Client // one for each member
}

// StartProcesses starts an etcd of three members. The package's TestMain must call Main.
func StartProcesses(t testing.TB) *Processes {
	t.Helper()
	specs, endpoints, err := embedetcd.Plan(t.TempDir(), 3)
	if err != nil {
		t.Fatal(err)
	}
	p := &Processes{t: t, endpoints: endpoints}
	for i, spec := range specs {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), asMember+"="+spec)
		cmd.Stderr = os.Stderr
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait() // which says that it was killed
			stdin.Close()
		})
		p.members = append(p.members, cmd)
		p.admins = append(p.admins, Client(t, endpoints[i]))
	}
	for i := range p.members {
		p.await(i)
	}
	return p
}

// Endpoints are the members' host:port for clients.
func (p *Processes) Endpoints() []string { return slices.Clone(p.endpoints) }

// Admin is an ordinary client of one member.
func (p *Processes) Admin(member int) *clientv3.Client { return p.admins[member] }

// Freeze suspends a member by SIGSTOP: its connections stay, and nobody answers.
func (p *Processes) Freeze(member int) { p.signal(member, syscall.SIGSTOP) }

// Thaw resumes a frozen member, and waits until it works.
func (p *Processes) Thaw(member int) {
	p.t.Helper()
	p.signal(member, syscall.SIGCONT)
	p.await(member)
}

// Leader is the index of the leader, as the given member knows it.
func (p *Processes) Leader(asked int) int {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 10*time.Second)
	defer cancel()
	knows, err := p.admins[asked].Status(ctx, p.endpoints[asked])
	if err != nil {
		p.t.Fatal(err)
	}
	for i, admin := range p.admins {
		if status, err := admin.Status(ctx, p.endpoints[i]); err == nil && status.Header.MemberId == knows.Leader {
			return i
		}
	}
	p.t.Fatal("no member leads")
	return 0
}

func (p *Processes) signal(member int, s syscall.Signal) {
	p.t.Helper()
	if err := p.members[member].Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// await returns when a member works.
func (p *Processes) await(member int) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 30*time.Second)
	defer cancel()
	if _, err := p.admins[member].Get(ctx, "/"); err != nil {
		p.t.Fatalf("member %d of etcd does not answer: %v", member, err)
	}
}
