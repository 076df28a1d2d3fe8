package registrar_test

import (
	"testing"

	"github.com/lbproxy/lbproxy/internal/etcdtest"
)

func TestMain(m *testing.M) { etcdtest.Main(m) }
