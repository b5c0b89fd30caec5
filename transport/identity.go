package transport

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/libp2p/go-libp2p/core/crypto"
)

// maxKeyFile is more than any identity key file holds (68 bytes for Ed25519),
// in bytes: a larger file is not a key and is not read into memory.
const maxKeyFile = 1 << 10

// LoadIdentity reads the node's private key from path, or creates one there if
// no file exists. The key is Ed25519; the file holds it as a libp2p PrivateKey
// protobuf (https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md),
// the bytes that other libp2p programs import and export. The peer ID follows
// from the key, so whoever reads the file can pose as this node: a file that
// others than its owner may access is refused, and so is one that is no whole
// key. A damaged key is never replaced, since that would change who the node is
// without anybody noticing.
func LoadIdentity(path string) (crypto.PrivKey, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return createIdentity(path)
	}
	if err != nil {
		return nil, fmt.Errorf("identity key: %w", err)
	}
	defer f.Close()

	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("identity key: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("identity key %s is not a regular file", path)
	}
	// Windows has no such mode bits; access lists guard the file there.
	if mode := info.Mode().Perm(); mode&0o077 != 0 && runtime.GOOS != "windows" {
		return nil, fmt.Errorf("identity key %s may be accessed by other users (mode %04o): run chmod 600 on it", path, mode)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("identity key: %w", err)
	}
	key, err := parseIdentity(data)
	if err != nil {
		return nil, fmt.Errorf("identity key %s is damaged (%w): restore it from a backup, or move it away to start over with a new peer ID", path, err)
	}
	return key, nil
}

// parseIdentity decodes a key file.
func parseIdentity(data []byte) (crypto.PrivKey, error) {
	if len(data) > maxKeyFile {
		return nil, fmt.Errorf("longer than %d bytes", maxKeyFile)
	}
	key, err := crypto.UnmarshalPrivateKey(data)
	if err != nil {
		return nil, err
	}
	if t := key.Type(); t != crypto.Ed25519 {
		return nil, fmt.Errorf("key type %s, want Ed25519", t)
	}
	// The second half is the public key, which follows from the first: a check that
	// libp2p leaves out. With one flipped bit every handshake would fail.
	raw, err := key.Raw()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(ed25519.NewKeyFromSeed(raw[:ed25519.SeedSize]), raw) {
		return nil, errors.New("its halves do not belong together")
	}
	return key, nil
}

func newIdentity() (crypto.PrivKey, error) {
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("identity key: %w", err)
	}
	return key, nil
}

// createIdentity makes a new key and stores it at path so that after a crash
// there is either the whole file or none: it is written and synced under another
// name, renamed, and the directory synced.
func createIdentity(path string) (_ crypto.PrivKey, err error) {
	key, err := newIdentity()
	if err != nil {
		return nil, err
	}
	data, err := crypto.MarshalPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("identity key: %w", err)
	}

	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, filepath.Base(path)+".tmp*") // mode 0600
	if err != nil {
		return nil, fmt.Errorf("create identity key: %w", err)
	}
	defer func() {
		if err != nil {
			os.Remove(tmp.Name())
		}
	}()
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return nil, fmt.Errorf("create identity key: %w", err)
	}
	if err = os.Rename(tmp.Name(), path); err != nil {
		return nil, fmt.Errorf("create identity key: %w", err)
	}
	if err = syncDir(dir); err != nil {
		return nil, fmt.Errorf("create identity key: %w", err)
	}
	return key, nil
}

// syncDir makes a rename inside dir durable. Windows can neither do it nor
// needs it.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
