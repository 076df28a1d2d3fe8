package number_test

import (
	"errors"
	"math/big"
	"strings"
	"testing"

	"github.com/lbproxy/lbproxy/internal/number"
)

func TestWhole(t *testing.T) {
	for text, want := range map[string]int{
		"10": 10, "10.0": 10, "1e1": 10, "1E+1": 10, "0.001e4": 10, "1000e-2": 10, "10.000": 10, "+10": 10, "-10.0": -10,
		"0": 0, "-0": 0, "0.0": 0, "0e99999999999999999999": 0, "0e-99999999999999999999": 0, "007": 7,
		"65535": 65535, "6.5535e4": 65535, "9223372036854775807": 1<<63 - 1,
	} {
		if got, err := number.Whole(text); got != want || err != nil {
			t.Errorf("%s: got %d (error %v), want %d", text, got, err, want)
		}
	}
	for text, want := range map[string]error{
		"": number.ErrNotWhole, "ten": number.ErrNotWhole, "10.5": number.ErrNotWhole, "1e-1": number.ErrNotWhole,
		"10.00000000000000000001": number.ErrNotWhole, "1e-400": number.ErrNotWhole,
		"1e-99999999999999999999": number.ErrNotWhole,
		"0x10":                    number.ErrNotWhole, "1_0": number.ErrNotWhole, "1.": number.ErrNotWhole, ".5e1": number.ErrNotWhole,
		"1e": number.ErrNotWhole, "inf": number.ErrNotWhole, "NaN": number.ErrNotWhole, " 1": number.ErrNotWhole,
		"9223372036854775808": number.ErrRange, "1e19": number.ErrRange, "-1e400": number.ErrRange,
		"1e99999999999999999999": number.ErrRange, strings.Repeat("9", 1<<20): number.ErrRange,
	} {
		if got, err := number.Whole(text); got != 0 || !errors.Is(err, want) {
			t.Errorf("%.30s: got %d (error %v), want error %v", text, got, err, want)
		}
	}
}

// FuzzWhole: Whole reads exactly what exact arithmetic says is whole.
func FuzzWhole(f *testing.F) {
	for _, seed := range []string{"10", "10.0", "1e1", "-0.001e4", "1e-1", "123456789012345678901", "1.50e1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.ContainsAny(text, "eE") && len(text) > 12 || strings.ContainsAny(text, "/xXpPoObB_") {
			return // exact arithmetic would take too long, or accepts more notations
		}
		got, err := number.Whole(text)
		want, ok := new(big.Rat).SetString(text)
		whole := ok && want.IsInt() && want.Num().IsInt64()
		if err == nil && (!whole || want.Num().Int64() != int64(got)) {
			t.Errorf("%q: got %d, want %v", text, got, want)
		}
	})
}
