"""The Lua that runs in Redis: each script is one round trip and nothing comes between its steps.

Keys, all under a prefix: ``born`` (when it was first written to), ``workers`` (sorted set of them
by when they were last heard of), ``lease:<partition>`` (the worker that holds it),
``token:<partition>`` (the highest token given), ``unit:<tenant>.<agent>.<boot>`` (hash of version,
snapshot, seen, length of the journal) and ``journal:<tenant>.<agent>.<boot>`` (list).
Each expires. They may not be in one slot of a Redis cluster: a single Redis, or one with replicas.
"""

from __future__ import annotations

_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""
# ARGV: prefix, worker, lease ms, kept secs, number of partitions, then partition and token of each.
BEAT = (
    _NOW
    + """
local prefix, worker, lease, kept = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local workers = prefix .. 'workers'
redis.call('ZADD', workers, now, worker)
redis.call('ZREMRANGEBYSCORE', workers, '-inf', now - lease)
redis.call('EXPIRE', workers, kept)
redis.call('SET', prefix .. 'born', now, 'NX')
redis.call('EXPIRE', prefix .. 'born', kept)
local young = now - tonumber(redis.call('GET', prefix .. 'born')) < lease
local held, free = {}, {}
for i = 6, #ARGV, 2 do
  local token = redis.call('GET', prefix .. 'token:' .. ARGV[i])
  if not token or tonumber(token) <= tonumber(ARGV[i + 1]) then
    redis.call('SET', prefix .. 'token:' .. ARGV[i], ARGV[i + 1], 'EX', kept)
    redis.call('SET', prefix .. 'lease:' .. ARGV[i], worker, 'PX', lease)
    held[#held + 1] = tonumber(ARGV[i])
  end
end
for partition = 0, tonumber(ARGV[5]) - 1 do
  if not young and redis.call('EXISTS', prefix .. 'lease:' .. partition) == 0 then
    free[#free + 1] = partition
  end
end
return {redis.call('ZCARD', workers), held, free}
"""
)
# ARGV: prefix, worker, lease ms, kept secs, above, then the partitions.
# A token is at least the time: it grows even if the one before was lost.
TAKE = (
    _NOW
    + """
local prefix, worker, lease, kept, above = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local taken = {}
for i = 6, #ARGV do
  local holder = redis.call('GET', prefix .. 'lease:' .. ARGV[i])
  if not holder or holder == worker then
    local last = tonumber(redis.call('GET', prefix .. 'token:' .. ARGV[i]) or 0)
    local token = string.format('%.0f', math.max(last + 1, above + 1, now))
    redis.call('SET', prefix .. 'token:' .. ARGV[i], token, 'EX', kept)
    redis.call('SET', prefix .. 'lease:' .. ARGV[i], worker, 'PX', lease)
    taken[#taken + 1] = ARGV[i]
    taken[#taken + 1] = token
  end
end
return taken
"""
)
# ARGV: prefix, worker, 1 if it leaves, then partition and token of each.
GIVE_BACK = """
local prefix, worker = ARGV[1], ARGV[2]
for i = 4, #ARGV, 2 do
  if redis.call('GET', prefix .. 'lease:' .. ARGV[i]) == worker
      and redis.call('GET', prefix .. 'token:' .. ARGV[i]) == ARGV[i + 1] then
    redis.call('DEL', prefix .. 'lease:' .. ARGV[i])
  end
end
if ARGV[3] == '1' then redis.call('ZREM', prefix .. 'workers', worker) end
return 1
"""
# ARGV: prefix, kept secs, then the units.
LOAD = """
local prefix, kept = ARGV[1], ARGV[2]
local found = {}
for i = 3, #ARGV do
  local unit, journal = prefix .. 'unit:' .. ARGV[i], prefix .. 'journal:' .. ARGV[i]
  local fields = redis.call('HMGET', unit, 'version', 'snapshot', 'seen', 'journal')
  local entries = redis.call('LRANGE', journal, 0, -1)
  if fields[1] and tonumber(fields[4]) == #entries then
    redis.call('EXPIRE', unit, kept)
    redis.call('EXPIRE', journal, kept)
    found[#found + 1] = {fields[1], fields[2], fields[3], entries}
  else
    found[#found + 1] = false
  end
end
return found
"""
# ARGV: prefix, kept secs, then of each write: unit, partition, token, version, seen, what, how many
# values, the values. What is A for append, R for replace, D for drop.
SAVE = """
local prefix, kept = ARGV[1], ARGV[2]
local done, at = {}, 3
while at <= #ARGV do
  local unit, journal = prefix .. 'unit:' .. ARGV[at], prefix .. 'journal:' .. ARGV[at]
  local token, what = prefix .. 'token:' .. ARGV[at + 1], ARGV[at + 5]
  local version, count = ARGV[at + 3], tonumber(ARGV[at + 6])
  local fields = redis.call('HMGET', unit, 'version', 'journal')
  local highest = tonumber(redis.call('GET', token) or 0)
  if highest < tonumber(ARGV[at + 2]) then
    redis.call('SET', token, ARGV[at + 2], 'EX', kept)
  end
  if highest > tonumber(ARGV[at + 2]) then
    done[#done + 1] = 'fenced'
  elseif what == 'D' then
    redis.call('DEL', unit, journal)
    done[#done + 1] = 'done'
  elseif what == 'A' and ((fields[1] or '0') ~= version
      or tonumber(fields[2] or 0) ~= redis.call('LLEN', journal)) then
    done[#done + 1] = 'missing'
  else
    local length = tonumber(fields[2] or 0)
    if what == 'R' then
      redis.call('DEL', unit, journal)
      length = 0
      if count > 0 then redis.call('HSET', unit, 'snapshot', ARGV[at + 7]) end
    else
      for i = 1, count do redis.call('RPUSH', journal, ARGV[at + 6 + i]) end
      length = length + count
    end
    redis.call('HSET', unit, 'version', string.format('%.0f', version + 1), 'seen', ARGV[at + 4],
      'journal', length)
    redis.call('EXPIRE', unit, kept)
    redis.call('EXPIRE', journal, kept)
    done[#done + 1] = 'done'
  end
  at = at + 7 + count
end
return done
"""
