package exchange

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"pollux/blockstore"
)

func TestGetOverSlowLine(t *testing.T) {
	data := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{7}).Read(data)
	b := blockstore.Sum(cid.Raw, data)
	h := outside(t)
	synctest.Test(t, func(t *testing.T) {
		seed := nodeOn(t, h, nil, hold(b))
		store := newStore(t)
		mirror := nodeOn(t, near{h, "mirror", streams{seed.ID(): func(st network.Stream, from peer.ID) {
			seed.server.serve(paced{st, 50 << 10}, &network.NullScope{}, from)
			st.Reset()
		}}}, store, store)
		candidates := make(chan Candidate, 1)
		candidates <- Candidate{seed.info(), true}
		began := time.Now()
		err := mirror.client.Get(t.Context(), GetRequest{Store: store, CID: b.CID(), Timeout: 10 * time.Minute}, candidates)
		t.Logf("after %v", time.Since(began))
		time.Sleep(2 * time.Minute)
		if err != nil {
			t.Fatal(err)
		}
	})
}
