package hpack

// staticLen is the number of entries of the static table.
const staticLen = 61

// staticTable is the static table (appendix A). Entry 0 is none.
var staticTable = [1 + staticLen]Field{
	{},
	{Name: ":authority"},
	{Name: ":method", Value: "GET"},
	{Name: ":method", Value: "POST"},
	{Name: ":path", Value: "/"},
	{Name: ":path", Value: "/index.html"},
	{Name: ":scheme", Value: "http"},
	{Name: ":scheme", Value: "https"},
	{Name: ":status", Value: "200"},
	{Name: ":status", Value: "204"},
	{Name: ":status", Value: "206"},
	{Name: ":status", Value: "304"},
	{Name: ":status", Value: "400"},
	{Name: ":status", Value: "404"},
	{Name: ":status", Value: "500"},
	{Name: "accept-charset"},
	{Name: "accept-encoding", Value: "gzip, deflate"},
	{Name: "accept-language"},
	{Name: "accept-ranges"},
	{Name: "accept"},
	{Name: "access-control-allow-origin"},
	{Name: "age"},
	{Name: "allow"},
	{Name: "authorization"},
	{Name: "cache-control"},
	{Name: "content-disposition"},
	{Name: "content-encoding"},
	{Name: "content-language"},
	{Name: "content-length"},
	{Name: "content-location"},
	{Name: "content-range"},
	{Name: "content-type"},
	{Name: "cookie"},
	{Name: "date"},
	{Name: "etag"},
	{Name: "expect"},
	{Name: "expires"},
	{Name: "from"},
	{Name: "host"},
	{Name: "if-match"},
	{Name: "if-modified-since"},
	{Name: "if-none-match"},
	{Name: "if-range"},
	{Name: "if-unmodified-since"},
	{Name: "last-modified"},
	{Name: "link"},
	{Name: "location"},
	{Name: "max-forwards"},
	{Name: "proxy-authenticate"},
	{Name: "proxy-authorization"},
	{Name: "range"},
	{Name: "referer"},
	{Name: "refresh"},
	{Name: "retry-after"},
	{Name: "server"},
	{Name: "set-cookie"},
	{Name: "strict-transport-security"},
	{Name: "transfer-encoding"},
	{Name: "user-agent"},
	{Name: "vary"},
	{Name: "via"},
	{Name: "www-authenticate"},
}

// commonNames is names that are often sent as literals and are not in the static table.
var commonNames = [...]string{
	"te", "grpc-timeout", "grpc-encoding", "grpc-accept-encoding", "grpc-status", "grpc-message",
	"grpc-status-details-bin", "grpc-trace-bin", "grpc-tags-bin", "grpc-previous-rpc-attempts",
	"traceparent", "tracestate", "baggage", "b3", "x-request-id", "x-forwarded-for",
}

var (
	staticIndex = indexStatic()
	knownNames  = nameStatic()
)

// indexStatic finds entries of the static table by their hash: open addressing, begun at the hash's low bits.
func indexStatic() (slots [256]uint8) {
	for i := 1; i <= staticLen; i++ {
		f := &staticTable[i]
		f.hash = hashOf(f.Name, f.Value)
		at := uint8(f.hash)
		for slots[at] != 0 {
			at++
		}
		slots[at] = uint8(i)
	}
	return slots
}

// staticMatch is the index of the entry of the static table that is f, whose hash is h, or 0.
func staticMatch(f *Field, h uint32) uint64 {
	for at := uint8(h); ; at++ {
		i := staticIndex[at]
		if i == 0 || f.is(&staticTable[i], h) {
			return uint64(i)
		}
	}
}

// A knownName is a name that costs no allocation.
type knownName struct {
	name  string
	index uint64 // of its first entry in the static table, or 0
}

func nameStatic() map[string]knownName {
	names := map[string]knownName{}
	for _, name := range commonNames {
		names[name] = knownName{name: name}
	}
	for i := uint64(staticLen); i > 0; i-- {
		name := staticTable[i].Name
		names[name] = knownName{name: name, index: i}
	}
	return names
}
