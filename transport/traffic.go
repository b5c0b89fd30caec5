package transport

import (
	"sync/atomic"

	"github.com/libp2p/go-libp2p/core/metrics"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// traffic counts the bytes of all streams. libp2p's own counter keeps figures for
// each peer and protocol besides, which take memory and are not needed.
type traffic struct {
	metrics.Reporter // nil: only the methods below are called by the host
	sent, received   atomic.Int64
}

func (t *traffic) total() (sent, received int64) { return t.sent.Load(), t.received.Load() }

func (t *traffic) LogSentMessage(n int64)                           { t.sent.Add(n) }
func (t *traffic) LogRecvMessage(n int64)                           { t.received.Add(n) }
func (t *traffic) LogSentMessageStream(int64, protocol.ID, peer.ID) {}
func (t *traffic) LogRecvMessageStream(int64, protocol.ID, peer.ID) {}
