package dag

import (
	"io/fs"
	"slices"
	"sync/atomic"
)

// chunk is a run of bytes of a file that becomes a leaf. It may be stored by another
// worker than the one that has the file.
type chunk struct {
	file   *sourceFile
	off, n int64
	leaf   *part // to be filled in
	row    *row
}

// row is the chunks that one node of a file links to.
type row struct {
	missing atomic.Int64  // chunks that are not stored yet
	done    chan struct{} // closed when all are
}

// putFile stores the regular file called name in d. doubtful says that it is refused
// if its content is secret.
func (w *importWorker) putFile(d *importDir, name string, info fs.FileInfo, doubtful bool) (Link, error) {
	f, err := openFile(d.root.Root, &d.place, name, info)
	if err != nil {
		return Link{}, d.pathError(name, err)
	}
	defer f.Close()
	if doubtful {
		start := make([]byte, min(f.info.Size(), secretStart))
		err := f.readAt(start, 0)
		if err == nil && isSecret(name, start) {
			err = ErrSecret
		}
		if err != nil {
			return Link{}, f.pathError(err)
		}
	}
	p, err := w.putContent(f)
	if err != nil {
		return Link{}, err
	}
	if err := f.checkUnchanged(); err != nil {
		return Link{}, f.pathError(err)
	}
	w.remember(f.info, p.link)
	w.meter.files.Add(1)
	return p.link, nil
}

// putContent stores the content of f, row by row, and returns the file's root.
func (w *importWorker) putContent(f *sourceFile) (part, error) {
	size, meta := f.info.Size(), w.metadata(f.info)
	if size == 0 && !meta.isZero() {
		return putFileNode(nil, meta, w.put)
	}
	if size <= w.minChunk() {
		leaf, err := w.putBytes(f, 0, size)
		if err != nil || meta.isZero() {
			return leaf, err
		}
		return w.joinParts([]part{leaf}, meta, w.put)
	}
	cut, err := w.cutter(f)
	if err != nil {
		return part{}, f.pathError(err)
	}
	var nodes []part
	for off := int64(0); off < size; {
		leaves, end, err := w.putRow(f, off, cut)
		if err != nil {
			return part{}, err
		}
		if off == 0 && end == size { // the row's node is the root
			return w.joinParts(leaves, meta, w.put)
		}
		node, err := putFileNode(leaves, metadata{}, w.put)
		if err != nil {
			return part{}, err
		}
		nodes = append(nodes, node)
		off = end
	}
	return w.joinParts(nodes, meta, w.put)
}

// putRow stores the bytes of f from off on as the leaves of one node, and returns where
// the last of them ends. It cuts f and offers the chunks to the other workers, and
// stores those itself that nobody is free for, so that one large file keeps all workers
// busy. Chunks are handed out as places in the file, which whoever stores them reads,
// so no more of them are in memory than there are workers.
func (w *importWorker) putRow(f *sourceFile, off int64, cut func(left int64) (int64, error)) (leaves []part, end int64, err error) {
	left := f.info.Size() - off
	leaves = make([]part, min(int64(w.maxLinks), left/w.minChunk()+1))
	r := &row{done: make(chan struct{})}
	r.missing.Store(1) // stands for those that are not cut yet
	n := 0
	for ; n < len(leaves) && left > 0; n++ {
		length, err := cut(left)
		if err != nil {
			return nil, 0, f.pathError(err)
		}
		c := chunk{f, off, length, &leaves[n], r}
		off, left = off+length, left-length
		r.missing.Add(1)
		select {
		case w.chunks <- c:
			continue
		default:
		}
		if err := w.putChunk(c); err != nil {
			return nil, 0, err
		}
	}
	r.stored()
	// Until the last of them is stored, help with whatever chunks there are: they
	// may be these, and everybody else may be waiting here too.
	for {
		select {
		case <-r.done:
			return leaves[:n], off, nil
		case <-w.ctx.Done():
			return nil, 0, w.ctx.Err()
		case c := <-w.chunks:
			if err := w.putChunk(c); err != nil {
				return nil, 0, err
			}
		}
	}
}

func (w *importWorker) putChunk(c chunk) error {
	leaf, err := w.putBytes(c.file, c.off, c.n)
	if err != nil {
		return err
	}
	*c.leaf = leaf
	c.row.stored()
	return nil
}

func (r *row) stored() {
	if r.missing.Add(-1) == 0 {
		close(r.done)
	}
}

// putBytes stores the n bytes of f at off as one leaf.
func (w *importWorker) putBytes(f *sourceFile, off, n int64) (part, error) {
	w.buf = slices.Grow(w.buf[:0], int(n))[:n]
	if err := f.readAt(w.buf, off); err != nil {
		return part{}, f.pathError(err)
	}
	leaf, err := putLeaf(w.buf, w.put)
	w.meter.bytes.Add(n)
	return leaf, err
}
