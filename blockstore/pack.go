package blockstore

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"strconv"
	"strings"
	"syscall"
)

// A pack file starts with this head; records follow without gaps (docs/format.md):
//
//	 0  magic    8 bytes "PLXPACK\n"
//	 8  version  u32
//	12  CRC      u32, CRC-32C of bytes 0 to 12 and 16 to 32
//	16  pack id  16 random bytes, which tie the index to the pack
const (
	packMagic     = "PLXPACK\n"
	packHeader    = 32
	formatVersion = 1

	// A pack is sealed at the first of these two. The count bounds the memory
	// of the live index (about 100 bytes an entry), the size the work of
	// replaying an unsealed pack at start.
	maxPackSize    = 128 << 20
	maxPackRecords = 1 << 17

	packSuffix  = ".pack"
	indexSuffix = ".idx"
	badSuffix   = ".bad" // of a pack in quarantine
	tempSuffix  = ".tmp"
)

// ErrNewerFormat reports a store that a later version of Pollux wrote.
var ErrNewerFormat = errors.New("written by a newer version of Pollux")

type packID [16]byte

// pack is one pack file and its index. The file is written only while the pack
// is the store's active one.
type pack struct {
	number uint32
	id     packID
	file   File
	size   int64 // bytes of sound head and records
	index  index

	// unreadable says that the disk failed when the pack was replayed. It is not
	// written to then, nor cut: what could not be read may be sound.
	unreadable bool
	reindexed  bool // see Store.reindex
}

func packName(number uint32) string  { return fmt.Sprintf("%08d%s", number, packSuffix) }
func indexName(number uint32) string { return fmt.Sprintf("%08d%s", number, indexSuffix) }

// parsePackName is the inverse of packName.
func parsePackName(name string) (uint32, bool) {
	return parseName(name, packSuffix)
}

// parseName returns the number of the pack that a file belongs to.
func parseName(name, suffix string) (uint32, bool) {
	n, err := strconv.ParseUint(strings.TrimSuffix(name, suffix), 10, 32)
	return uint32(n), err == nil && n > 0 && name == fmt.Sprintf("%08d%s", n, suffix)
}

// createPack makes an empty pack whose name and head are durable.
func createPack(dir FS, number uint32) (*pack, error) {
	p := &pack{number: number, index: newIndex()}
	rand.Read(p.id[:])
	name := packName(number)
	f, err := dir.Create(name)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(p.writeHead(f), f.Sync(), dir.Sync()); err != nil {
		return nil, errors.Join(err, f.Close(), dir.Remove(name))
	}
	p.file = f
	return p, nil
}

func (p *pack) writeHead(f File) error {
	head := make([]byte, packHeader)
	copy(head, packMagic)
	binary.LittleEndian.PutUint32(head[8:], formatVersion)
	copy(head[16:], p.id[:])
	binary.LittleEndian.PutUint32(head[12:], packHeadCRC(head))
	p.size = packHeader
	_, err := f.WriteAt(head, 0)
	return err
}

func packHeadCRC(head []byte) uint32 {
	crc := crc32.Checksum(head[:12], castagnoli)
	return crc32.Update(crc, castagnoli, head[16:packHeader])
}

// openPack opens a pack with its index; where the index is missing or unusable,
// it is rebuilt in memory from the records (and p.index stays live). damage
// counts the runs of bytes that hold no sound record. verify is as for replay.
func openPack(dir FS, number uint32, verify func(record []byte) bool) (p *pack, damage int, err error) {
	f, err := dir.Open(packName(number))
	if err != nil {
		return nil, 0, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	p = &pack{number: number, file: f}
	size, err := f.Size()
	if err != nil {
		return nil, 0, err
	}
	head := make([]byte, packHeader)
	readDamaged(f, head, 0) // what is not read is no head
	sound := string(head[:8]) == packMagic && packHeadCRC(head) == binary.LittleEndian.Uint32(head[12:])
	switch version := binary.LittleEndian.Uint32(head[8:]); {
	case sound && version > formatVersion:
		return nil, 0, fmt.Errorf("%s: format version %d: %w", packName(number), version, ErrNewerFormat)
	case sound:
		p.id = packID(head[16:])
		p.index, err = loadIndex(dir, p, size)
		switch {
		case err == nil:
			p.size = size
			return p, 0, nil
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errBadIndex):
			// A newer version, or too many open files, which a rebuilt index would not mend.
			return nil, 0, fmt.Errorf("%s: %w", indexName(number), err)
		}
	default:
		damage++ // the records behind a damaged head are still good
	}
	// After a sync that failed the page cache still shows, as clean, what never
	// reached the disk. If that were replayed, it would be taken for durable.
	p.unreadable = f.Sync() != nil
	if err := f.Uncache(); err != nil {
		return nil, 0, fmt.Errorf("%s: %w", packName(number), err)
	}
	return p, damage + p.replay(size, verify), nil
}

func loadIndex(dir FS, p *pack, size int64) (index, error) {
	f, err := dir.Open(indexName(p.number))
	if err == nil {
		var x index
		if x, err = openIndex(f, p.id, size); err == nil {
			return x, nil
		}
		err = errors.Join(err, f.Close())
	}
	if errors.Is(err, syscall.EIO) {
		err = fmt.Errorf("%w: %w", errBadIndex, err)
	}
	return index{}, err
}

// replay rebuilds p.index from the records and sets p.size to the end of the
// last sound one. It returns how many runs of other bytes lie before that end.
// Payloads are checked against their CRC, so that a record torn by a crash, or
// one whose tail never reached the disk, does not count. A record that was found
// behind damage may be part of a block that was made to look like one; there verify
// has to say whether its bytes match its multihash. What the disk cannot read counts
// as damage, and sets p.unreadable.
func (p *pack) replay(size int64, verify func(record []byte) bool) (damage int) {
	const window = 8 << 20 // holds the largest record several times over
	p.index, p.size = newIndex(), packHeader
	buf := make([]byte, 0, min(window, max(size, 1)))
	base := int64(packHeader) // offset of buf[0] in the file
	pos := 0                  // of the next record in buf
	skipping := false
	for {
		// Refill when less than one record of the largest size is ahead.
		if ahead := len(buf) - pos; ahead < recordHeader+maxHashLength+MaxBlockSize && base+int64(len(buf)) < size {
			copy(buf[:cap(buf)], buf[pos:])
			base += int64(pos)
			pos = 0
			n, readable := readDamaged(p.file, buf[ahead:min(cap(buf), int(min(size-base, window)))], base+int64(ahead))
			p.unreadable = p.unreadable || !readable
			if n == 0 {
				size = base + int64(ahead) // the file is shorter than it was
			}
			buf = buf[:ahead+n]
		}
		if pos >= len(buf) {
			return damage
		}
		h, ok := soundRecord(buf[pos:])
		if !ok || skipping && !verify(buf[pos:pos+h.size()]) {
			skipping = true
			next := bytes.Index(buf[pos+1:], []byte(recordMagic))
			if next < 0 {
				// The magic may straddle the end of the buffer.
				next = max(len(buf)-pos-len(recordMagic), 0)
			}
			pos += 1 + next
			continue
		}
		if skipping {
			damage++
			skipping = false
		}
		p.index.add(keyOf(h.mh), entry{uint32(base + int64(pos)), uint32(h.size()), h.raw})
		pos += h.size()
		p.size = base + int64(pos)
	}
}

// soundRecord returns the header of the record that b starts with, if the whole
// record is there and its checksums are right.
func soundRecord(b []byte) (header, bool) {
	h, err := parseHeader(b)
	if err != nil || len(b) < h.size() {
		return header{}, false
	}
	payload := b[recordHeader+len(h.mh) : h.size()]
	return h, crc32.Checksum(payload, castagnoli) == h.payloadCRC
}

// finish cuts off what lies behind the last sound record and makes the rest durable.
func (p *pack) finish() error {
	return errors.Join(p.file.Truncate(p.size), p.file.Sync())
}

// writeIndex writes the index of a finished pack to a file, which takes the place of
// the live one. A crash between any two steps leaves a pack whose index is rebuilt
// at the next start.
func (p *pack) writeIndex(dir FS) error {
	if err := replaceFile(dir, indexName(p.number), p.index.encode(p.id, p.size), true); err != nil {
		return err
	}
	sealed, err := loadIndex(dir, p, p.size)
	if err != nil {
		return err
	}
	p.index = sealed
	return nil
}
