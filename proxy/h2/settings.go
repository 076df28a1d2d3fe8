package h2

import "encoding/binary"

// SettingID is one of the parameters in SETTINGS (RFC 9113, section 6.5.2).
type SettingID uint16

// The settings. Others are to be ignored.
const (
	SettingHeaderTableSize      SettingID = 0x1
	SettingEnablePush           SettingID = 0x2
	SettingMaxConcurrentStreams SettingID = 0x3
	SettingInitialWindowSize    SettingID = 0x4
	SettingMaxFrameSize         SettingID = 0x5
	SettingMaxHeaderListSize    SettingID = 0x6
)

// Unlimited is the value of settings that limit nothing.
const Unlimited = 1<<32 - 1

// Settings are what a peer has said of itself.
type Settings struct {
	HeaderTableSize      uint32
	MaxConcurrentStreams uint32
	InitialWindowSize    int32
	MaxFrameSize         uint32
	MaxHeaderListSize    uint32
}

// DefaultSettings are what holds until a peer's SETTINGS have come.
func DefaultSettings() Settings {
	return Settings{
		HeaderTableSize:      4096,
		MaxConcurrentStreams: Unlimited,
		InitialWindowSize:    InitialWindow,
		MaxFrameSize:         MinMaxFrameSize,
		MaxHeaderListSize:    Unlimited,
	}
}

// Apply changes s to what the payload of a SETTINGS frame says, whose header has passed Check. FromServer says
// who sent it.
func (s *Settings) Apply(payload []byte, fromServer bool) error {
	for ; len(payload) > 0; payload = payload[settingLen:] {
		v := binary.BigEndian.Uint32(payload[2:])
		switch SettingID(binary.BigEndian.Uint16(payload)) {
		case SettingHeaderTableSize:
			s.HeaderTableSize = v
		case SettingEnablePush:
			// "A server MUST NOT explicitly set this value to 1. ... A client MUST treat receipt of a SETTINGS
			// frame with SETTINGS_ENABLE_PUSH set to 1 as a connection error" (section 6.5.2).
			if v > 1 || v == 1 && fromServer {
				return ConnectionError{ProtocolError, "SETTINGS_ENABLE_PUSH has a value that it cannot have"}
			}
		case SettingMaxConcurrentStreams:
			s.MaxConcurrentStreams = v
		case SettingInitialWindowSize:
			if v > MaxWindow {
				return ConnectionError{FlowControlError, "SETTINGS_INITIAL_WINDOW_SIZE exceeds 2^31-1"}
			}
			s.InitialWindowSize = int32(v)
		case SettingMaxFrameSize:
			if v < MinMaxFrameSize || v > MaxMaxFrameSize {
				return ConnectionError{ProtocolError, "SETTINGS_MAX_FRAME_SIZE is not between 2^14 and 2^24-1"}
			}
			s.MaxFrameSize = v
		case SettingMaxHeaderListSize:
			s.MaxHeaderListSize = v
		}
	}
	return nil
}

// A Setting is one parameter, to be sent.
type Setting struct {
	ID    SettingID
	Value uint32
}

// AppendSettings appends a SETTINGS frame.
func AppendSettings(dst []byte, settings ...Setting) []byte {
	dst = AppendFrameHeader(dst, FrameHeader{Length: uint32(settingLen * len(settings)), Type: FrameSettings})
	for _, s := range settings {
		dst = binary.BigEndian.AppendUint16(dst, uint16(s.ID))
		dst = binary.BigEndian.AppendUint32(dst, s.Value)
	}
	return dst
}

// AppendSettingsAck appends the acknowledgement of a SETTINGS frame.
func AppendSettingsAck(dst []byte) []byte {
	return AppendFrameHeader(dst, FrameHeader{Type: FrameSettings, Flags: FlagAck})
}
