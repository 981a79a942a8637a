-- Puts or forgets the state of an entity, for a user.
--
-- KEYS  the source
-- ARGV  the prefix of its keys, the group, the key, the version that the state must have ('' for any), the user, then as in
--       entities.lua: the version before (left empty), stamp, schema, ttl in ms, how many changes are kept, the mark (left
--       empty), the new state ('' to forget it); last whether it is changed also while a delivery of the key is in flight (1 or 0)
--
-- Returns {'done', new version}, the old one if the state was forgotten; or, and nothing is changed, {'other', version} or
-- {'busy', version}: a node has a delivery of this key in flight, whose settlement is going to change the state.

local prefix, group, key, wanted, by = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local version, problem = entities.version(prefix, group, key)
if problem and ARGV[13] == '1' and string.find(problem, '^WRONGTYPE') then
  -- Others have put something else there.
  entities.forget(prefix, group, key)
  version, problem = entities.version(prefix, group, key)
end
if problem then
  return redis.error_reply(problem)
end
if not string.find(version, '^%d+$') or #version > 15 then
  version = '0' -- Others have written it; no state of ours has this version.
end
if wanted ~= '' and wanted ~= version then
  return { 'other', version }
end
-- Places are as in order.lua. Released entries belong to no node.
local places = redis.call('HGET', prefix .. 'keys', key)
for _, place in ipairs(ARGV[13] == '0' and places and cjson.decode(places) or {}) do
  local level, id = string.match(place, '^(%l+):(%d+%-%d+)$')
  id = id or string.match(place, '^%d+%-%d+$')
  if id then
    local stream = level and prefix .. 'priority:' .. level or KEYS[1]
    local pending = redis.pcall('XPENDING', stream, group, id, id, 1)
    if not pending.err and pending[1] and pending[1][2] ~= 'released' then
      return { 'busy', version }
    end
  end
end
if ARGV[12] == '' then
  entities.forget(prefix, group, key)
  return { 'done', version }
end
ARGV[6] = version
entities.change(prefix, group, key, by, '', unpack(ARGV, 6, 12))
entities.list(prefix, group)
return { 'done', whole(version + 1) }
