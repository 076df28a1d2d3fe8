package h2_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lbproxy/lbproxy/proxy/h2"
)

func TestSettings(t *testing.T) {
	payload := func(settings ...h2.Setting) []byte { return h2.AppendSettings(nil, settings...)[h2.FrameHeaderLen:] }
	s := h2.DefaultSettings()
	err := s.Apply(payload(
		h2.Setting{ID: h2.SettingHeaderTableSize, Value: 0},
		h2.Setting{ID: h2.SettingEnablePush, Value: 1},
		h2.Setting{ID: h2.SettingMaxConcurrentStreams, Value: 7},
		h2.Setting{ID: h2.SettingInitialWindowSize, Value: 1},
		h2.Setting{ID: h2.SettingInitialWindowSize, Value: h2.MaxWindow}, // the last one counts
		h2.Setting{ID: h2.SettingMaxFrameSize, Value: h2.MaxMaxFrameSize},
		h2.Setting{ID: h2.SettingMaxHeaderListSize, Value: 100},
		h2.Setting{ID: 0xbeef, Value: 1},
	), false)
	want := h2.Settings{
		MaxConcurrentStreams: 7, InitialWindowSize: h2.MaxWindow, MaxFrameSize: h2.MaxMaxFrameSize, MaxHeaderListSize: 100,
	}
	if diff := cmp.Diff(s, want); diff != "" || err != nil {
		t.Errorf("error %v, settings (-got +want):\n%s", err, diff)
	}
	for _, c := range []struct {
		setting    h2.Setting
		fromServer bool
		want       h2.ErrCode
	}{
		{h2.Setting{ID: h2.SettingEnablePush, Value: 2}, false, h2.ProtocolError},
		{h2.Setting{ID: h2.SettingEnablePush, Value: 1}, true, h2.ProtocolError},
		{h2.Setting{ID: h2.SettingInitialWindowSize, Value: h2.MaxWindow + 1}, false, h2.FlowControlError},
		{h2.Setting{ID: h2.SettingMaxFrameSize, Value: h2.MinMaxFrameSize - 1}, false, h2.ProtocolError},
		{h2.Setting{ID: h2.SettingMaxFrameSize, Value: h2.MaxMaxFrameSize + 1}, false, h2.ProtocolError},
	} {
		s := h2.DefaultSettings()
		checkError(t, s.Apply(payload(c.setting), c.fromServer), h2.ConnectionError{Code: c.want})
	}
}
