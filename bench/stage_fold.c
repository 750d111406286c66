/*
 * stage_fold.c - writing: the fold from nothing, updates clustered by group, overwriting.
 *
 * Costs an update are those of all that the process does until it is settled: CPU of all threads includes flushes and
 * compactions. The committing thread's own CPU ends with the last batch.
 */
#include "bench.h"

struct usage {
    uint64_t wall;
    uint64_t thread;
    uint64_t process;
    struct measure_io io;
};

static struct usage usage_now(void) {
    return (struct usage){measure_wall(), measure_thread(), measure_process(), measure_io()};
}

/* Figures of a piece of writing that began at `begin` and has applied its last batch. */
static void report(struct bench *bench, struct writer *writer, const struct usage *begin) {
    struct usage applied = usage_now();
    bench_settle(bench);
    struct usage settled = usage_now();
    double n = (double)writer->updates_total;
    bench_figure(bench, "wall", "ns/update", (double)(applied.wall - begin->wall) / n);
    bench_figure(bench, "wall_settled", "ns/update", (double)(settled.wall - begin->wall) / n);
    bench_figure(bench, "cpu_all", "ns/update", (double)(settled.process - begin->process) / n);
    bench_figure(bench, "cpu_writer", "ns/update", (double)(applied.thread - begin->thread) / n);
    bench_figure(bench, "settle", "s", (double)(settled.wall - applied.wall) / 1e9);
    bench_latencies(bench, "batch", writer->latencies);
    bench_figure(bench, "write_amplification", "bytes/byte",
                 (double)(settled.io.write_bytes - begin->io.write_bytes) / (double)writer->bytes_total);
    bench_figure(bench, "disk", "bytes", (double)measure_disk(bench->dir));
    if (writer->timeline != NULL) {
        bench_timeline(bench, "batches", writer->timeline);
    }
}

void stage_fold(struct bench *bench) {
    struct writer writer;
    bench_open(bench, bench->cache_bytes);
    writer_init(&writer, bench, bench->session, bench->batch);
    timeline_init(&bench->timeline);
    writer.timeline = &bench->timeline;
    struct load_walk walk;
    load_walk_init(&walk, &bench->load, &bench->order);
    struct usage begin = usage_now();
    for (uint64_t i = 0; i < bench->order.count; i++) {
        writer_put(&writer, load_walk_next(&walk));
    }
    writer_flush(&writer);
    report(bench, &writer, &begin);
    bench->shared->bytes_given = writer.bytes_total;
    check_cursor(bench);
    bench_figure(bench, "memory_anonymous", "bytes", (double)measure_status_kib("RssAnon:") * 1024);
    bench_figure(bench, "memory_peak", "bytes", (double)measure_status_kib("VmHWM:") * 1024);
    writer_fini(&writer);
    uint64_t before = measure_wall();
    bench_close(bench);
    bench_figure(bench, "close", "ms", (double)(measure_wall() - before) / 1e6);
    bench_figure(bench, "disk_closed", "bytes", (double)measure_disk(bench->dir));
}

/* Four rounds; each touches another tenth of the groups, all keys of a group one behind the other. */
void stage_update(struct bench *bench) {
    const struct load *load = &bench->load;
    struct load_order groups;
    struct writer writer;
    bench_open(bench, bench->cache_bytes);
    writer_init(&writer, bench, bench->session, bench->batch);
    load_order_init(&groups, load->keys / load->group, false);
    struct usage begin = usage_now();
    for (uint64_t i = 0; i < groups.count / 10 * 4; i++) {
        uint64_t first = load_order_at(&groups, i) * load->group;
        for (uint64_t k = 0; k < load->group; k++) {
            writer_put(&writer, first + k);
        }
    }
    writer_flush(&writer);
    if (writer.updates_total > 0) {
        report(bench, &writer, &begin);
    }
    check_cursor(bench);
    uint64_t ns;
    (void)check_full_scan(bench, false, &ns);
    writer_fini(&writer);
    bench_close(bench);
}

/* Every key again, in the order of the fold. */
void stage_overwrite(struct bench *bench) {
    struct writer writer;
    bench_open(bench, bench->cache_bytes);
    writer_init(&writer, bench, bench->session, bench->batch);
    struct load_walk walk;
    load_walk_init(&walk, &bench->load, &bench->order);
    struct usage begin = usage_now();
    for (uint64_t i = 0; i < bench->order.count; i++) {
        writer_put(&writer, load_walk_next(&walk));
    }
    writer_flush(&writer);
    report(bench, &writer, &begin);
    check_cursor(bench);
    uint64_t ns;
    (void)check_full_scan(bench, false, &ns);
    writer_fini(&writer);
    bench_close(bench);
}
