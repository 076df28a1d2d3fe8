package etcd

import (
	"net"
	"testing"

	"google.golang.org/grpc/peer"
)

// Leaving a member takes finding it among the endpoints, however these are written.
func TestMemberInUse(t *testing.T) {
	endpoints := []string{"10.0.0.1:2379", "http://10.0.0.2:2379", "https://[2001:db8::1]:2379", "localhost:2380", "localhost:2381"}
	for at, want := range map[string]int{
		"10.0.0.1:2379": 0, "10.0.0.2:2379": 1, "[2001:db8::1]:2379": 2, "127.0.0.1:2380": 3, "127.0.0.1:2381": 4,
		"10.0.0.1:2381": 0, // none of them
	} {
		addr, err := net.ResolveTCPAddr("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		var member memberInUse
		member.note(&peer.Peer{Addr: addr})
		if got := member.among(endpoints); got != want {
			t.Errorf("%s is found at %d, want %d", at, got, want)
		}
	}
	if got := new(memberInUse).among(endpoints); got != 0 {
		t.Errorf("before anything was asked it is %d, want the first", got)
	}
}
