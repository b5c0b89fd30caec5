package exchange

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/libp2p/go-libp2p/core/network"
)

// TestBadLength has lengths of frames that are too much, or are cut short: the former break the
// protocol, and the latter are what the stream ended with.
func TestBadLength(t *testing.T) {
	for _, tt := range []struct {
		name string
		r    io.Reader
		want error
	}{
		{"0", bytes.NewReader([]byte{0}), errProtocol},
		{"over the limit", bytes.NewReader([]byte{102}), errProtocol},
		{"of 65 bits", bytes.NewReader(append(bytes.Repeat([]byte{0x80}, 9), 2)), errProtocol},
		{"of 77 bits", bytes.NewReader(bytes.Repeat([]byte{0xff}, 11)), errProtocol},
		{"none", bytes.NewReader(nil), io.EOF},
		{"cut short", bytes.NewReader([]byte{0x80}), io.ErrUnexpectedEOF},
		{"reset", iotest.ErrReader(network.ErrReset), network.ErrReset},
		{"cut short by a reset", io.MultiReader(bytes.NewReader([]byte{0x80}), iotest.ErrReader(network.ErrReset)),
			network.ErrReset},
	} {
		_, _, err := readFrame(bufio.NewReader(tt.r), 100)
		if !errors.Is(err, tt.want) || tt.want != errProtocol && errors.Is(err, errProtocol) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
}
